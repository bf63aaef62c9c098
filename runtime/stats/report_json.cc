#include <fmt/format.h>

#include <limits>

#include "runtime/json/reader.h"
#include "runtime/json/writer.h"
#include "runtime/stats/report.h"

namespace airlock {
namespace {

constexpr int kSchemaVersion = 1;

/// As nanoseconds two years, as bytes 64 PiB.
constexpr std::int64_t kMaxCounter = std::int64_t{1} << 56;
constexpr std::int64_t kMaxBucketCount = std::int64_t{1} << 40;
constexpr std::int64_t kMaxCores = 1 << 20;
constexpr std::size_t kMaxConfigEntries = 64;
constexpr std::size_t kMaxSessions = 4096;

JsonObject to_json(const HistogramSnapshot& histogram) { return histogram_json(histogram); }

template <typename Stats>
JsonObject to_json(const Stats& stats) {
  JsonObject json;
  Stats::visit(
      [&json](std::string_view key, const auto& member) {
        using Member = std::remove_cvref_t<decltype(member)>;
        if constexpr (std::is_same_v<Member, std::uint64_t>) {
          json.add(key, member);
        } else {
          // There only where an op used one.
          constexpr bool kIsDevice = std::is_same_v<Member, DeviceTimes>;
          if (!kIsDevice || member != Member{}) json.add(key, to_json(member));
        }
      },
      stats);
  return json;
}

JsonObject to_json(const HostReport& host) {
  JsonObject json = {
      {"name", host.name}, {"cpu", host.cpu}, {"cores", host.cores}, {"device", host.device}};
  if (host.gpu) {
    json.add("driver", host.gpu->driver);
    json.add("cuda_runtime", host.gpu->cuda_runtime);
    json.add("cublas", host.gpu->cublas);
    json.add("device_memory_bytes", host.gpu->memory_bytes);
  }
  return json;
}

JsonObject to_json(const SessionReport& session) {
  return {{"id", session.id},
          {"client", session.client},
          {"sessions", session.sessions},
          {"paths", to_json(session.transport)},
          {"ops", to_json(session.ops)}};
}

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

template <typename Stats>
void read_into(const JsonReader& json, Stats& stats) {
  Stats::visit(
      [&json](std::string_view key, auto& member) {
        using Member = std::remove_cvref_t<decltype(member)>;
        if constexpr (std::is_same_v<Member, std::uint64_t>) {
          json.read(key, member, kMaxCounter);
        } else {
          constexpr bool kIsDevice = std::is_same_v<Member, DeviceTimes>;
          if (!kIsDevice || json.has(key)) read_into(json.at(key), member);
        }
      },
      stats);
}

void read_into(const JsonReader& json, SessionReport& session) {
  json.read("id", session.id);
  json.read("client", session.client);
  json.read("sessions", session.sessions, kMaxCounter);
  read_into(json.at("paths"), session.transport);
  read_into(json.at("ops"), session.ops);
}

}  // namespace

JsonObject histogram_json(const HistogramSnapshot& histogram) {
  JsonObject json;
  for (const auto& [key, share] : kPercentiles) json.add(key, histogram.percentile(share));
  return json.add("max", histogram.max).add("buckets", histogram.buckets());
}

JsonObject report_object(const SideReport& report) {
  JsonObject config;
  for (const auto& [key, value] : report.config) config.add(key, value);
  JsonObject json = {{"schema_version", kSchemaVersion},   {"side", report.side},
                     {"host", to_json(report.host)},       {"config", config},
                     {"paths", to_json(report.transport)}, {"ops", to_json(report.ops)}};
  if (report.side == "tee_runner") json.add("tee", to_json(report.tee));
  json.add("wall_ns", report.wall_ns);
  if (report.side == "gpu_server") {
    std::vector<JsonObject> sessions;
    for (const SessionReport& session : report.sessions) sessions.push_back(to_json(session));
    json.add("sessions", sessions);
  }
  return json;
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
  root.read("side", report.side);
  if (report.side != "tee_runner" && report.side != "gpu_server")
    root.at("side").refuse("tee_runner or gpu_server");
  const JsonReader host = root.at("host");
  host.read("name", report.host.name);
  host.read("cpu", report.host.cpu);
  host.read("cores", report.host.cores, kMaxCores);
  host.read("device", report.host.device);
  for (const auto& [key, value] : root.at("config").members(kMaxConfigEntries))
    value.get(report.config.emplace_back(key, "").second);
  read_into(root.at("paths"), report.transport);
  read_into(root.at("ops"), report.ops);
  if (report.side == "tee_runner") read_into(root.at("tee"), report.tee);
  root.read("wall_ns", report.wall_ns, kMaxCounter);
  if (report.side == "gpu_server") {
    for (const JsonReader& session : root.at("sessions").items(kMaxSessions))
      read_into(session, report.sessions.emplace_back());
  }
  RETURN_IF_ERROR(status);
  return report;
}

}  // namespace airlock
