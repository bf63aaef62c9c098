#include "runtime/stats/report.h"

#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <fstream>
#include <thread>

#include "base/safe_text.h"
#include "runtime/json/reader.h"
#include "runtime/json/writer.h"
#include "runtime/text/figures.h"
#include "runtime/text/table.h"

namespace airlock {
namespace {

constexpr int kSchemaVersion = 1;

/// As nanoseconds two years, as bytes 64 PiB.
constexpr std::int64_t kMaxCounter = std::int64_t{1} << 56;
constexpr std::int64_t kMaxBucketCount = std::int64_t{1} << 40;
constexpr std::int64_t kMaxCores = 1 << 20;
constexpr std::size_t kMaxConfigEntries = 64;
constexpr std::size_t kMaxSessions = 4096;

using Config = decltype(SideReport::config);
using Sessions = decltype(SideReport::sessions);

std::string cpu_model() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    const std::size_t colon = line.find(": ");
    if (line.starts_with("model name") && colon != std::string::npos) return line.substr(colon + 2);
  }
  return "unknown";
}

JsonObject to_json(const auto& stats, JsonObject json = {});

std::uint64_t to_json(std::uint64_t number) { return number; }
const std::string& to_json(const std::string& text) { return text; }
JsonObject to_json(const HistogramSnapshot& histogram) { return histogram_json(histogram); }

JsonObject to_json(const Config& config) {
  JsonObject json;
  for (const auto& [key, value] : config) json.add(key, value);
  return json;
}

std::vector<JsonObject> to_json(const Sessions& sessions) {
  std::vector<JsonObject> json;
  for (const SessionReport& session : sessions) json.push_back(to_json(session));
  return json;
}

/// `json` with all that the visit() of `stats` lists.
JsonObject to_json(const auto& stats, JsonObject json) {
  stats.visit(
      [&json](std::string_view key, const auto& member) {
        if constexpr (std::is_same_v<std::remove_cvref_t<decltype(member)>, DeviceTimes>) {
          // There only where an op used one.
          if (member == DeviceTimes{}) return;
        }
        json.add(key, to_json(member));
      },
      stats);
  return json;
}

void read_into(const JsonReader& json, auto& stats);

void read_into(const JsonReader& json, HistogramSnapshot& histogram) {
  json.read("max", histogram.max);
  for (const JsonReader& bucket : json.at("buckets").items(kHistogramBucketCount)) {
    std::uint64_t upper_ns = 0;
    std::uint64_t count = 0;
    const auto pair = bucket.items(2);
    if (pair.size() != 2) return bucket.refuse("an upper edge and a count");
    pair[0].get(upper_ns);
    pair[1].get(count, {1, kMaxBucketCount});
    if (!histogram.append(upper_ns, count))
      return pair[0].refuse("the upper edge of a bucket, ascending, the last one that of max");
  }
  for (const auto& [key, share] : kPercentiles) {
    std::uint64_t stated = 0;
    json.read(key, stated);
    if (const std::uint64_t value = histogram.percentile(share); stated != value)
      json.at(key).refuse(fmt::format("{}, as its buckets say", value));
  }
}

void read_into(const JsonReader& json, Config& config) {
  for (const auto& [key, value] : json.members(kMaxConfigEntries))
    value.get(config.emplace_back(key, "").second);
}

void read_into(const JsonReader& json, Sessions& sessions) {
  for (const JsonReader& session : json.items(kMaxSessions))
    read_into(session, sessions.emplace_back());
}

/// The reverse of to_json().
void read_into(const JsonReader& json, auto& stats) {
  stats.visit(
      [&json](std::string_view key, auto& member) {
        using Member = std::remove_cvref_t<decltype(member)>;
        if constexpr (std::is_same_v<Member, std::uint64_t>) {
          json.read(key, member, key == "cores" ? kMaxCores : kMaxCounter);
        } else if constexpr (std::is_same_v<Member, std::string>) {
          json.read(key, member);
        } else {
          constexpr bool kIsDevice = std::is_same_v<Member, DeviceTimes>;
          if (!kIsDevice || json.has(key)) read_into(json.at(key), member);
        }
      },
      stats);
}

/// The table under an empty line; nothing for a table without rows.
std::string section(const Table& table) { return table.empty() ? "" : '\n' + table.aligned(); }

Cell mib(std::uint64_t bytes) { return Cell::real(static_cast<double>(bytes) / (1 << 20), 2); }
Cell ms(std::uint64_t ns) { return Cell::ms(ns, 2); }
Cell us(std::uint64_t ns) { return Cell::real(static_cast<double>(ns) / 1e3, 1); }

std::string paths_text(const TransportSnapshot& transport) {
  Table traffic({left("path"), left("direction"), "messages", "tensors", "MiB"});
  Table waits({left("path"), "p50 us", "p90 us", "p99 us", "max us", "slot waits", "fallbacks",
               "spins", "parks", "errors"});
  for (const Path path : kPaths) {
    const PathSnapshot& stats = transport[path];
    for (const auto& [name, sums] :
         {std::pair("sent", stats.sent), std::pair("received", stats.received)}) {
      if (sums != DirectionSnapshot{})
        traffic.add({name_of(path), name, sums.messages, sums.tensors, mib(sums.bytes)});
    }
    if (stats == PathSnapshot{}) continue;
    const HistogramSnapshot& latency = stats.latency_ns;
    const bool timed = latency.count() > 0;
    const auto cell = [timed](std::uint64_t ns) { return timed ? us(ns) : Cell(); };
    waits.add({name_of(path), cell(latency.percentile(0.5)), cell(latency.percentile(0.9)),
               cell(latency.percentile(0.99)), cell(latency.max), stats.slot_waits, stats.fallbacks,
               stats.spins, stats.parks, stats.errors});
  }
  if (traffic.empty() && waits.empty()) return "\nno message crossed\n";
  return section(traffic) + section(waits);
}

std::string ops_text(const OpSnapshotTable& ops) {
  Table table({left("op"), "calls", "total ms", "tee ms", "wire ms", "queue ms", "server ms"});
  for (const Op op : kOps) {
    const auto& [calls, times] = ops[op];
    if (calls == 0) continue;
    Cells row = {name_of(op), calls};
    visit_times([&row](std::string_view, std::uint64_t ns) { row.push_back(ms(ns)); }, times);
    table.add(std::move(row));
  }
  return section(table);
}

std::string devices_text(const OpSnapshotTable& ops) {
  Table table({left("device"), "copy in ms", "compute ms", "copy out ms"});
  for (const Op op : kOps) {
    const DeviceTimes& device = ops[op].times.device;
    if (device == DeviceTimes{}) continue;
    table.add({name_of(op), ms(device.copy_in_ns), ms(device.compute_ns), ms(device.copy_out_ns)});
  }
  return section(table);
}

std::string tee_text(const TeeSnapshotTable& tee) {
  Table table({left("tee"), "calls", "total ms"});
  for (const TeeKernel kernel : kValuesOf<TeeKernel>) {
    const TeeKernelSnapshot& sums = tee[kernel];
    if (sums.calls != 0) table.add({name_of(kernel), sums.calls, ms(sums.total_ns)});
  }
  return section(table);
}

/// About: of buckets' upper edges.
double sum_s(const HistogramSnapshot& times) {
  double sum = 0;
  for (const auto& [upper_ns, count] : times.buckets())
    sum += static_cast<double>(upper_ns) / 1e9 * static_cast<double>(count);
  return sum;
}

std::string text_text(const TextSnapshot& text) {
  Table table({left("text"), "tokens", "p50 ms", "p90 ms", "p99 ms", "max ms"});
  const auto row = [&table](std::string_view name, std::uint64_t tokens,
                            const HistogramSnapshot& times) {
    table.add({name, tokens, ms(times.percentile(0.5)), ms(times.percentile(0.9)),
               ms(times.percentile(0.99)), ms(times.max)});
  };
  row("prompt, to the first token", text.prompt_tokens, text.ttft_ns);
  row("answer, from token to token", text.generated_tokens, text.itl_ns);
  const double answering_s = sum_s(text.itl_ns);
  std::string rest = fmt::format("keys and values: {:.2f} MiB at most",
                                 static_cast<double>(text.cache_peak_bytes) / (1 << 20));
  if (answering_s > 0) {
    rest += fmt::format("; each answer at {:.1f} tokens/s",
                        static_cast<double>(text.itl_ns.count()) / answering_s);
  }
  return section(table) + rest + "\n";
}

std::string privacy_text(const PrivacyReport& report) {
  const PrivacySnapshot& privacy = report.counted;
  Table work({left("privacy: " + report.mode), "rows", "ms"});
  work.add({"pads' products", privacy.pads_made, ms(privacy.pad_ns)});
  work.add({"rounding and hiding", "", ms(privacy.mask_ns)});
  work.add({"taking in", "", ms(privacy.unmask_ns)});
  work.add({"checking", privacy.checks, ms(privacy.verify_ns)});
  return section(work) +
         fmt::format("pads: {} late, {} wiped unused, {:.2f} MiB ahead at most; {} checks failed\n",
                     privacy.pads_late, privacy.pads_dropped,
                     static_cast<double>(privacy.reserve_peak_bytes) / (1 << 20), privacy.failures);
}

std::string sessions_text(const std::vector<SessionReport>& sessions) {
  Table table({left("session"), left("client"), "calls", "received MiB", "sent MiB", "errors",
               "server ms"});
  for (const SessionReport& session : sessions) {
    const PathSnapshot all = sum_of(session.transport);
    const OpSnapshot ops = sum_of(session.ops);
    const std::string older =
        session.sessions > 1 ? fmt::format(" and {} older", session.sessions - 1) : std::string();
    table.add({session.id + older, session.client, ops.calls, mib(all.received.bytes),
               mib(all.sent.bytes), all.errors, ms(ops.times.server_ns)});
  }
  return section(table);
}

}  // namespace

HostReport describe_host(std::string_view device) {
  std::array<char, 256> name{};
  if (::gethostname(name.data(), name.size() - 1) != 0) name[0] = '\0';
  return {name.data(), cpu_model(), std::thread::hardware_concurrency(), std::string(device)};
}

JsonObject histogram_json(const HistogramSnapshot& histogram) {
  JsonObject json;
  for (const auto& [key, share] : kPercentiles) json.add(key, histogram.percentile(share));
  return json.add("max", histogram.max).add("buckets", histogram.buckets());
}

JsonObject report_object(const SideReport& report) {
  return to_json(report, JsonObject{{"schema_version", kSchemaVersion}});
}

std::string report_json(const SideReport& report) { return report_object(report).line(); }

Result<SideReport> read_report(std::string_view text, std::string_view source) {
  ASSIGN_OR_RETURN(const Json json, parse_json(text, source));
  Status status;
  const JsonReader root(json, source, status);
  int version = 0;
  root.read("schema_version", version);
  if (version != kSchemaVersion) root.at("schema_version").refuse(std::to_string(kSchemaVersion));
  SideReport report;
  read_into(root, report);
  if (report.side == "tee_runner" && root.has("text"))
    read_into(root.at("text"), report.text.emplace());
  if (report.side != "tee_runner" && report.side != "gpu_server")
    root.at("side").refuse("tee_runner or gpu_server");
  RETURN_IF_ERROR(status);
  return report;
}

std::string report_table(const SideReport& report) {
  const HostReport& host = report.host;
  // A device is the server's word.
  const std::string machine =
      fmt::format("{} ({}, {} cores), device {}", host.name, host.cpu, host.cores, host.device);
  return fmt::format("{}: {:.3f} s on {}\n", report.side, static_cast<double>(report.wall_ns) / 1e9,
                     without_controls(machine, "?")) +
         paths_text(report.transport) + ops_text(report.ops) + devices_text(report.ops) +
         tee_text(report.tee) + (report.text ? text_text(*report.text) : std::string()) +
         (report.privacy ? privacy_text(*report.privacy) : std::string()) +
         sessions_text(report.sessions);
}

}  // namespace airlock
