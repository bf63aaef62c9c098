#include "tee_runner/replay_report.h"

#include <fmt/format.h>

#include <array>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "base/saturating.h"

namespace airlock {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::array kOps = {Op::kEmbedding, Op::kBatchLinear, Op::kMatmul, Op::kLmHead};
constexpr std::array kPaths = {Path::kRing, Path::kZmq};

const char* path_text(Path path) { return path == Path::kRing ? "ring" : "zmq"; }
double ms(std::uint64_t ns) { return static_cast<double>(ns) / 1e6; }

/// The sides' time in the end's terms: what it went to, and of what in all. The parts of ops that
/// were under way at once each count whole, so that `all_ns` may be more than the wall. Where the
/// TEE's time is not known there is no whole, and there are no shares.
struct TimeShares {
  explicit TimeShares(const ReplaySide& side) {
    const OpSnapshot ops = side.sum();
    if (side.between_ns) wall_ns = side.wall_ns;
    if (side.between_ns) tee_ns = add_saturating(*side.between_ns, ops.times.tee_ns);
    parts = {{{"tee", tee_ns},
              {"wire", ops.times.wire_ns},
              {"queue", ops.times.queue_ns},
              {"server", ops.times.server_ns},
              {"idle", side.idle_ns}}};
    if (!tee_ns) return;
    for (const auto& [name, ns] : parts) all_ns = add_saturating(all_ns, ns.value_or(0));
  }
  std::optional<double> share(std::size_t i) const {
    if (all_ns == 0) return std::nullopt;
    return static_cast<double>(parts[i].second.value_or(0)) / static_cast<double>(all_ns);
  }
  std::optional<std::uint64_t> wall_ns;
  std::optional<std::uint64_t> tee_ns;
  std::array<std::pair<const char*, std::optional<std::uint64_t>>, 5> parts;
  std::uint64_t all_ns = 0;
};

/// Everything that more than one form prints.
struct Figures {
  explicit Figures(const ReplayResult& result)
      : counts(result.sum()), recorded(counts.recorded), replayed(counts.replayed) {
    wall_ns = counts.end_ns - counts.start_ns;
    const double seconds = static_cast<double>(wall_ns) / 1e9;
    if (wall_ns > 0) {
      ops_per_s = static_cast<double>(counts.ops) / seconds;
      gb_per_s = static_cast<double>(counts.bytes) / 1e9 / seconds;
    }
  }
  ReplayCounts counts;
  TimeShares recorded;
  TimeShares replayed;
  std::uint64_t wall_ns = 0;  // first client's start to the last reply of all
  double ops_per_s = 0;
  double gb_per_s = 0;
};

/// nullopt where nothing was timed, as in a synthesised trace.
std::optional<double> ratio(const OpSnapshot& recorded, const OpSnapshot& replayed) {
  if (recorded.times.total_ns == 0) return std::nullopt;
  return static_cast<double>(replayed.times.total_ns) /
         static_cast<double>(recorded.times.total_ns);
}

PathFlow flow_of(const TransportSnapshot& transport, Path path) {
  return {transport[path].sent, transport[path].received};
}

// --- json

template <typename Value>
Json value_or_null(const std::optional<Value>& value) {
  return value ? Json(*value) : Json();
}

Json direction_json(const DirectionSnapshot& d) {
  return {{"messages", d.messages}, {"tensors", d.tensors}, {"bytes", d.bytes}};
}

Json flow_json(const PathFlow& flow) {
  return {{"sent", direction_json(flow.sent)}, {"received", direction_json(flow.received)}};
}

Json op_json(const OpSnapshot& op) {
  return {{"total_ns", op.times.total_ns},
          {"tee_ns", op.times.tee_ns},
          {"wire_ns", op.times.wire_ns},
          {"queue_ns", op.times.queue_ns},
          {"server_ns", op.times.server_ns}};
}

Json histogram_json(const HistogramSnapshot& histogram) {
  Json buckets = Json::array();
  for (const auto& [upper_ns, count] : histogram.buckets()) {
    buckets.push_back(Json::array({upper_ns, count}));
  }
  return {{"p50", histogram.percentile(0.50)},
          {"p90", histogram.percentile(0.90)},
          {"p99", histogram.percentile(0.99)},
          {"max", histogram.max},
          {"buckets", std::move(buckets)}};
}

Json ops_json(const ReplayCounts& counts) {
  Json ops = Json::object();
  for (const Op op : kOps) {
    const OpSnapshot& recorded = counts.recorded.ops[op];
    const OpSnapshot& replayed = counts.replayed.ops[op];
    if (replayed.calls == 0) continue;
    Json one = {{"calls", replayed.calls},
                {"recorded", op_json(recorded)},
                {"replayed", op_json(replayed)},
                {"ratio", nullptr},
                {"latency_ns", histogram_json(counts.total_ns[op])}};
    if (const auto value = ratio(recorded, replayed)) one["ratio"] = *value;
    ops[std::string(name_of(op))] = std::move(one);
  }
  return ops;
}

Json time_json(const ReplaySide& side, const TimeShares& shares) {
  Json time = {{"wall_ns", value_or_null(shares.wall_ns)},
               {"between_ns", value_or_null(side.between_ns)}};
  for (const auto& [name, ns] : shares.parts) time[fmt::format("{}_ns", name)] = value_or_null(ns);
  time["share"] = Json::object();
  for (std::size_t i = 0; i < shares.parts.size(); ++i) {
    time["share"][shares.parts[i].first] = value_or_null(shares.share(i));
  }
  return time;
}

Json text_or_null(const std::string& text) { return text.empty() ? Json() : Json(text); }

Json clients_json(const ReplayResult& result) {
  Json clients = Json::array();
  for (const ReplayClientResult& client : result.clients) {
    const ReplayCounts& counts = client.counts;
    clients.push_back({{"ops", counts.ops},
                       {"bytes", counts.bytes},
                       {"wall_ns", counts.end_ns - counts.start_ns},
                       {"error", text_or_null(client.error)}});
  }
  return clients;
}

std::string format_json(const ReplayResult& result) {
  const Figures figures(result);
  const ReplayCounts& counts = figures.counts;
  const ReplayOptions& options = result.options;
  Json json;
  json["schema_version"] = 1;
  json["trace"] = {{"file", options.file},
                   {"source", name_of(result.trace.source)},
                   {"model", result.trace.model},
                   {"tokens", result.trace.tokens},
                   {"started_at", result.trace.started_at},
                   {"dropped", result.trace.dropped},
                   {"cut", text_or_null(result.cut)}};
  json["server"] = {{"device", result.server.device},
                    {"dtype", name_of(result.server.dtype)},
                    {"digest", result.server.digest}};
  json["config"] = {{"speed", name_of(options.speed)},
                    {"repeat", options.repeat},
                    {"clients", options.clients},
                    {"inflight", options.inflight},
                    {"inputs", result.recorded_inputs ? "payload" : "seed"}};
  json["complete"] = result.complete;
  json["wall_ns"] = figures.wall_ns;
  json["op_count"] = counts.ops;
  json["bytes"] = counts.bytes;
  json["ops_per_s"] = figures.ops_per_s;
  json["gb_per_s"] = figures.gb_per_s;
  json["ops"] = ops_json(counts);
  json["same_paths"] = result.same_paths;
  for (const Path path : kPaths) {
    json["paths"][path_text(path)] = {{"recorded", flow_json(counts.recorded_paths[path])},
                                      {"replayed", flow_json(flow_of(result.transport, path))}};
  }
  json["time"] = {{"recorded", time_json(counts.recorded, figures.recorded)},
                  {"replayed", time_json(counts.replayed, figures.replayed)}};
  json["verify"] = {{"mode", name_of(options.verify)},
                    {"tensors", counts.tensors_checked},
                    {"differing", counts.tensors_differing},
                    {"first", text_or_null(counts.first_difference)}};
  json["clients"] = clients_json(result);
  // A path or a model's name may hold anything: what is not UTF-8 is replaced.
  return json.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
}

// --- csv

std::string csv_flow(const char* path, const char* direction, const DirectionSnapshot& recorded,
                     const DirectionSnapshot& replayed) {
  return fmt::format(
      "path,{0},{1}_messages,{2},{3}\npath,{0},{1}_tensors,{4},{5}\npath,{0},{1}_bytes,{6},{7}\n",
      path, direction, recorded.messages, replayed.messages, recorded.tensors, replayed.tensors,
      recorded.bytes, replayed.bytes);
}

template <typename Value>
std::string value_or_nothing(const std::optional<Value>& value) {
  return value ? fmt::format("{}", *value) : std::string();
}

std::string csv_op(Op op, const ReplayCounts& counts) {
  const OpSnapshot& recorded = counts.recorded.ops[op];
  const OpSnapshot& replayed = counts.replayed.ops[op];
  if (replayed.calls == 0) return {};
  std::string text;
  const auto line = [&](const char* field, std::uint64_t a, std::uint64_t b) {
    text += fmt::format("op,{},{},{},{}\n", name_of(op), field, a, b);
  };
  line("calls", recorded.calls, replayed.calls);
  line("total_ns", recorded.times.total_ns, replayed.times.total_ns);
  line("tee_ns", recorded.times.tee_ns, replayed.times.tee_ns);
  line("wire_ns", recorded.times.wire_ns, replayed.times.wire_ns);
  line("queue_ns", recorded.times.queue_ns, replayed.times.queue_ns);
  line("server_ns", recorded.times.server_ns, replayed.times.server_ns);
  const HistogramSnapshot& histogram = counts.total_ns[op];
  const auto only_replayed = [&](const char* field, std::uint64_t ns) {
    text += fmt::format("op,{},{},,{}\n", name_of(op), field, ns);
  };
  only_replayed("p50_ns", histogram.percentile(0.50));
  only_replayed("p90_ns", histogram.percentile(0.90));
  only_replayed("p99_ns", histogram.percentile(0.99));
  only_replayed("max_ns", histogram.max);
  if (const auto value = ratio(recorded, replayed)) {
    text += fmt::format("op,{},ratio,,{}\n", name_of(op), *value);
  }
  return text;
}

std::string format_csv(const ReplayResult& result) {
  const Figures figures(result);
  const ReplayCounts& counts = figures.counts;
  std::string text = "kind,name,field,recorded,replayed\n";
  for (const Op op : kOps) text += csv_op(op, counts);
  for (const Path path : kPaths) {
    const PathFlow& recorded = counts.recorded_paths[path];
    const PathFlow replayed = flow_of(result.transport, path);
    text += csv_flow(path_text(path), "sent", recorded.sent, replayed.sent);
    text += csv_flow(path_text(path), "received", recorded.received, replayed.received);
  }
  for (std::size_t i = 0; i < figures.replayed.parts.size(); ++i) {
    const auto& [name, ns] = figures.replayed.parts[i];
    text += fmt::format("time,{0},ns,{1},{2}\ntime,{0},share,{3},{4}\n", name,
                        value_or_nothing(figures.recorded.parts[i].second), value_or_nothing(ns),
                        value_or_nothing(figures.recorded.share(i)),
                        value_or_nothing(figures.replayed.share(i)));
  }
  text += fmt::format("time,wall,ns,{},{}\n", value_or_nothing(figures.recorded.wall_ns),
                      value_or_nothing(figures.replayed.wall_ns));
  text += fmt::format(
      "total,replay,complete,,{}\ntotal,replay,wall_ns,,{}\ntotal,replay,ops,,{}\n"
      "total,replay,bytes,,{}\ntotal,replay,ops_per_s,,{}\ntotal,replay,gb_per_s,,{}\n",
      result.complete ? 1 : 0, figures.wall_ns, counts.ops, counts.bytes, figures.ops_per_s,
      figures.gb_per_s);
  return text + fmt::format("verify,{0},tensors,,{1}\nverify,{0},differing,,{2}\n",
                            name_of(result.options.verify), counts.tensors_checked,
                            counts.tensors_differing);
}

// --- markdown

std::string md_ops(const ReplayCounts& counts) {
  std::string text =
      "| op | calls | recorded ms | replayed ms | ratio | p50 ms | p99 ms |\n"
      "| --- | ---: | ---: | ---: | ---: | ---: | ---: |\n";
  const auto row = [&](std::string_view name, const OpSnapshot& recorded,
                       const OpSnapshot& replayed, const HistogramSnapshot& histogram) {
    const auto value = ratio(recorded, replayed);
    text += fmt::format("| {} | {} | {} | {:.3f} | {} | {:.3f} | {:.3f} |\n", name, replayed.calls,
                        value ? fmt::format("{:.3f}", ms(recorded.times.total_ns)) : "-",
                        ms(replayed.times.total_ns), value ? fmt::format("{:.2f}", *value) : "-",
                        ms(histogram.percentile(0.50)), ms(histogram.percentile(0.99)));
  };
  HistogramSnapshot all;
  for (const Op op : kOps) {
    const HistogramSnapshot& histogram = counts.total_ns[op];
    if (counts.replayed.ops[op].calls == 0) continue;
    row(name_of(op), counts.recorded.ops[op], counts.replayed.ops[op], histogram);
    all.merge(histogram);
  }
  row("all", counts.recorded.sum(), counts.replayed.sum(), all);
  return text;
}

std::string md_paths(const ReplayResult& result, const ReplayCounts& counts) {
  std::string text =
      "| path | messages recorded | replayed | tensors recorded | replayed | bytes recorded | "
      "replayed |\n| --- | ---: | ---: | ---: | ---: | ---: | ---: |\n";
  const auto row = [&](const char* path, const char* direction, const DirectionSnapshot& recorded,
                       const DirectionSnapshot& replayed) {
    text += fmt::format("| {} {} | {} | {} | {} | {} | {} | {} |\n", path, direction,
                        recorded.messages, replayed.messages, recorded.tensors, replayed.tensors,
                        recorded.bytes, replayed.bytes);
  };
  for (const Path path : kPaths) {
    const PathFlow& recorded = counts.recorded_paths[path];
    const PathFlow replayed = flow_of(result.transport, path);
    row(path_text(path), "sent", recorded.sent, replayed.sent);
    row(path_text(path), "received", recorded.received, replayed.received);
  }
  if (result.trace.backend == "local") {
    text += "\nThe trace was recorded with --backend local: nothing crossed then.\n";
  } else if (!result.same_paths) {
    text += "\nThe session's ring is not the recorded one: tensors may have taken other paths.\n";
  }
  return text;
}

std::string md_time(const Figures& figures, std::uint64_t dropped) {
  std::string text =
      "| share of the time | TEE | wire | queue | server | idle | wall ms |\n"
      "| --- | ---: | ---: | ---: | ---: | ---: | ---: |\n";
  const auto row = [&](const char* name, const TimeShares& shares) {
    text += fmt::format("| {} |", name);
    for (std::size_t i = 0; i < shares.parts.size(); ++i) {
      const auto share = shares.share(i);
      text += share ? fmt::format(" {:.1f} % |", 100 * *share) : " - |";
    }
    text += shares.all_ns == 0 ? " - |\n" : fmt::format(" {:.3f} |\n", ms(*shares.wall_ns));
  };
  row("recorded", figures.recorded);
  row("replayed", figures.replayed);
  if (dropped > 0) {
    text += fmt::format(
        "\n{} ops are missing from the trace, as the disk could not keep up: recorded, their time "
        "counts as the TEE's.\n",
        dropped);
  }
  return text;
}

std::string md_failures(const ReplayResult& result) {
  std::string text;
  if (!result.complete) text += "\n**Partial**: the replay did not come to its end.\n";
  for (std::size_t i = 0; i < result.clients.size(); ++i) {
    const ReplayClientResult& client = result.clients[i];
    if (client.error.empty()) continue;
    text += fmt::format("- client {}, after {} ops: {}\n", i + 1, client.counts.ops, client.error);
  }
  return text;
}

std::string format_markdown(const ReplayResult& result) {
  const Figures figures(result);
  const ReplayCounts& counts = figures.counts;
  const ReplayOptions& options = result.options;
  std::string text = md_ops(counts) + "\n" + md_paths(result, counts) + "\n" +
                     md_time(figures, result.trace.dropped);
  text += fmt::format(
      "\n| clients | repeat | in flight | speed | wall ms | ops | ops/s | GB moved | GB/s |\n"
      "| ---: | ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: |\n"
      "| {} | {} | {} | {} | {:.3f} | {} | {:.1f} | {:.3f} | {:.3f} |\n",
      options.clients, options.repeat, options.inflight, name_of(options.speed),
      ms(figures.wall_ns), counts.ops, figures.ops_per_s, static_cast<double>(counts.bytes) / 1e9,
      figures.gb_per_s);
  if (options.verify != ReplayVerify::kNone) {
    text += fmt::format("\n--verify {}: {} of {} tensors differ.\n", name_of(options.verify),
                        counts.tensors_differing, counts.tensors_checked);
  }
  if (!result.cut.empty()) text += fmt::format("\n{}.\n", result.cut);
  return text + md_failures(result);
}

}  // namespace

ReplayCounts ReplayResult::sum() const {
  ReplayCounts sum;
  for (const ReplayClientResult& client : clients) sum.merge(client.counts);
  return sum;
}

std::string format_replay(const ReplayResult& result) {
  switch (result.options.output) {
    case Output::kJson:
      return format_json(result);
    case Output::kCsv:
      return format_csv(result);
    case Output::kMarkdown:
      break;
  }
  return format_markdown(result);
}

}  // namespace airlock
