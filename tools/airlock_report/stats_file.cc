#include "tools/airlock_report/stats_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

namespace airlock::report {
namespace {

constexpr std::int64_t kSchemaVersion = 1;

/// An object of the file, with its place for messages. The first thing that does not fit is kept as
/// the status; each later read gives a harmless value.
class Node {
 public:
  Node(const Json& json, std::string path, std::string_view source, Status& status)
      : json_(json), path_(std::move(path)), source_(source), status_(status) {
    if (!json_.is_object()) refuse({}, json_, "an object");
  }

  const Json* get(std::string_view key) {
    const Json* value = json_.is_object() ? json_.find(key) : nullptr;
    if (value == nullptr) fail(key, "is missing");
    return value;
  }
  bool has(std::string_view key) const { return json_.is_object() && json_.find(key) != nullptr; }
  Node child(std::string_view key) {
    static const Json kNull;
    const Json* value = get(key);
    return {value == nullptr ? kNull : *value, place(key), source_, status_};
  }
  std::uint64_t number(std::string_view key, std::uint64_t most = kMaxCounter) {
    const Json* value = get(key);
    return value == nullptr ? 0 : number_of(key, *value, most);
  }
  std::uint64_t number_of(std::string_view key, const Json& value, std::uint64_t most) {
    if (value.kind != Json::Kind::kInteger || value.integer < 0 ||
        static_cast<std::uint64_t>(value.integer) > most) {
      refuse(key, value, fmt::format("an integer from 0 to {}", most));
      return 0;
    }
    return static_cast<std::uint64_t>(value.integer);
  }
  std::string text(std::string_view key) {
    const Json* value = get(key);
    return value == nullptr ? std::string() : text_of(key, *value);
  }
  std::string text_of(std::string_view key, const Json& value) {
    if (!value.is_string() || value.text.size() > kMaxTextBytes) {
      refuse(key, value, fmt::format("a text of at most {} bytes", kMaxTextBytes));
      return {};
    }
    return value.text;
  }
  const std::vector<Json>& array(std::string_view key, std::size_t most) {
    static const std::vector<Json> kNone;
    const Json* value = get(key);
    if (value == nullptr) return kNone;
    if (value->kind != Json::Kind::kArray || value->items.size() > most) {
      refuse(key, *value, fmt::format("an array of at most {}", most));
      return kNone;
    }
    return value->items;
  }
  void refuse(std::string_view key, const Json& value, std::string_view expected) {
    fail(key, fmt::format("is {}, expected {}", value.describe(), expected));
  }
  void fail(std::string_view key, std::string_view what) {
    if (!status_.ok()) return;
    const std::string at = place(key);
    status_ = {StatusCode::kInvalidInput,
               fmt::format("{}: {}{}", source_,
                           at.empty() ? std::string() : fmt::format("'{}' ", printable(at)), what)};
  }
  std::string place(std::string_view key) const {
    return path_.empty() || key.empty() ? path_ + std::string(key)
                                        : fmt::format("{}.{}", path_, key);
  }
  bool ok() const { return status_.ok(); }
  const Json& json() const { return json_; }
  std::string_view source() const { return source_; }
  Status& status() { return status_; }

 private:
  const Json& json_;
  std::string path_;
  std::string_view source_;
  Status& status_;
};

/// Upper edge of each bucket.
const std::vector<std::uint64_t>& upper_edges() {
  static const std::vector<std::uint64_t> kEdges = [] {
    HistogramSnapshot full;
    full.counts.fill(1);
    std::vector<std::uint64_t> edges;
    for (const auto& [edge, count] : full.buckets()) edges.push_back(edge);
    return edges;
  }();
  return kEdges;
}

void read_bucket(Node& node, const Json& json, HistogramSnapshot& histogram, std::size_t& next) {
  if (json.kind != Json::Kind::kArray || json.items.size() != 2) {
    node.refuse("buckets", json, "pairs of an upper edge and a count");
    return;
  }
  const std::uint64_t edge = node.number_of("buckets", json.items[0], INT64_MAX);
  const std::uint64_t count = node.number_of("buckets", json.items[1], kMaxBucketCount);
  const std::vector<std::uint64_t>& edges = upper_edges();
  const auto found = std::ranges::lower_bound(edges, edge);
  const auto index = static_cast<std::size_t>(found - edges.begin());
  if (!node.ok()) return;
  if (found == edges.end() || *found != edge || index < next || count == 0) {
    node.fail("buckets",
              fmt::format("has {}, which is no filled bucket in its order", json.items[0].integer));
    return;
  }
  histogram.counts[index] = count;
  next = index + 1;
}

HistogramSnapshot read_latency(Node node) {
  HistogramSnapshot histogram;
  histogram.max = node.number("max", INT64_MAX);
  std::size_t next = 0;
  for (const Json& json : node.array("buckets", kHistogramBucketCount)) {
    read_bucket(node, json, histogram, next);
    if (!node.ok()) return {};
  }
  if (next > 1 && histogram.max <= upper_edges()[next - 2])
    node.fail("max", fmt::format("is {}, under its last bucket", histogram.max));
  for (const auto& [key, share] : {std::pair("p50", 0.5), {"p90", 0.9}, {"p99", 0.99}}) {
    const std::uint64_t stated = node.number(key, INT64_MAX);
    if (stated != histogram.percentile(share)) {
      node.fail(key,
                fmt::format("is {}, its buckets give {}", stated, histogram.percentile(share)));
    }
  }
  return histogram;
}

DirectionSnapshot read_direction(Node node) {
  return {node.number("messages"), node.number("tensors"), node.number("bytes")};
}

PathSnapshot read_path(Node node) {
  PathSnapshot path;
  path.sent = read_direction(node.child("sent"));
  path.received = read_direction(node.child("received"));
  path.errors = node.number("errors");
  path.slot_waits = node.number("slot_waits");
  path.spins = node.number("spins");
  path.parks = node.number("parks");
  path.latency_ns = read_latency(node.child("latency_ns"));
  return path;
}

TransportSnapshot read_paths(Node node) {
  TransportSnapshot transport;
  transport.path(Path::kRing) = read_path(node.child("ring"));
  transport.path(Path::kZmq) = read_path(node.child("zmq"));
  return transport;
}

DeviceSnapshot read_device(Node node) {
  return {node.number("copy_in_ns"), node.number("compute_ns"), node.number("copy_out_ns")};
}

OpSnapshotTable read_ops(Node node) {
  OpSnapshotTable table;
  for (std::size_t i = 0; i < kCountOf<Op>; ++i) {
    Node op = node.child(name_of(kOps[i]));
    table.ops[i] = {op.number("calls"),   op.number("total_ns"), op.number("tee_ns"),
                    op.number("wire_ns"), op.number("queue_ns"), op.number("server_ns")};
    if (op.has("device")) table.ops[i].device = read_device(op.child("device"));
  }
  return table;
}

TeeSnapshotTable read_tee(Node node) {
  TeeSnapshotTable table;
  for (std::size_t i = 0; i < kCountOf<TeeKernel>; ++i) {
    Node kernel = node.child(name_of(static_cast<TeeKernel>(i)));
    table[i] = {kernel.number("calls"), kernel.number("total_ns")};
  }
  return table;
}

void read_config(Node node, SideReport& report) {
  const Json& json = node.json();
  if (json.keys.size() > kMaxConfigEntries) {
    node.fail({}, fmt::format("has {} entries, expected at most {}", json.keys.size(),
                              kMaxConfigEntries));
    return;
  }
  for (std::size_t i = 0; i < json.keys.size(); ++i)
    report.config.emplace_back(json.keys[i], node.text_of(json.keys[i], json.items[i]));
}

void read_sessions(Node& root, SideReport& report) {
  std::size_t index = 0;
  for (const Json& json : root.array("sessions", kMaxSessions)) {
    Node node(json, fmt::format("sessions.{}", index++), root.source(), root.status());
    SessionReport session;
    session.id = node.text("id");
    session.client = node.text("client");
    session.sessions = node.number("sessions");
    session.transport = read_paths(node.child("paths"));
    session.ops = read_ops(node.child("ops"));
    if (!node.ok()) return;
    report.sessions.push_back(std::move(session));
  }
}

}  // namespace

Result<SideReport> read_stats(const Json& json, std::string_view source) {
  Status status;
  Node root(json, {}, source, status);
  if (root.number("schema_version") != kSchemaVersion && status.ok())
    root.refuse("schema_version", *root.get("schema_version"), fmt::format("{}", kSchemaVersion));
  SideReport report;
  report.side = root.text("side");
  if (report.side != "tee_runner" && report.side != "gpu_server" && status.ok())
    root.refuse("side", *root.get("side"), "tee_runner or gpu_server");
  Node host = root.child("host");
  report.host = {host.text("name"), host.text("cpu"),
                 static_cast<std::size_t>(host.number("cores", 1U << 20)), host.text("device")};
  read_config(root.child("config"), report);
  report.transport = read_paths(root.child("paths"));
  report.ops = read_ops(root.child("ops"));
  if (report.side == "tee_runner") report.tee = read_tee(root.child("tee"));
  report.wall_ns = root.number("wall_ns");
  if (report.side == "gpu_server") read_sessions(root, report);
  RETURN_IF_ERROR(status);
  return report;
}

}  // namespace airlock::report
