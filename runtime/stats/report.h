#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/status.h"
#include "runtime/stats/op_stats.h"
#include "runtime/stats/privacy_stats.h"
#include "runtime/stats/text_stats.h"
#include "runtime/stats/transport_stats.h"

namespace airlock {

class JsonObject;

/// What a GPU's driver and libraries say of themselves.
struct DeviceReport {
  std::string driver;  // the CUDA version that the driver knows, "13.0"
  std::string cuda_runtime;
  std::string cublas;
  std::size_t memory_bytes = 0;
  bool operator==(const DeviceReport&) const = default;
};

/// The machine that a report was made on.
struct HostReport {
  std::string name;
  std::string cpu;
  std::size_t cores = 0;
  // What the backend computes on.
  std::string device;
  // Where that is a GPU of this machine. Files have it, and nobody reads it back.
  std::optional<DeviceReport> gpu = {};
  bool operator==(const HostReport&) const = default;
  /// each(key, member) for every member that is there, here as in the structs below.
  static void visit(auto&& each, auto& host) {
    each("name", host.name);
    each("cpu", host.cpu);
    each("cores", host.cores);
    each("device", host.device);
    if (!host.gpu) return;
    each("driver", host.gpu->driver);
    each("cuda_runtime", host.gpu->cuda_runtime);
    each("cublas", host.gpu->cublas);
    each("device_memory_bytes", host.gpu->memory_bytes);
  }
};
HostReport describe_host(std::string_view device);

/// What sessions counted, added up.
struct CounterSums {
  TransportSnapshot transport;
  OpSnapshotTable ops;
  void merge(const CounterSums& other) {
    airlock::merge(transport, other.transport);
    airlock::merge(ops, other.ops);
  }
};

/// What a server keeps of a session, under way or over. A plain value.
struct SessionReport : CounterSums {
  std::string id;
  std::string client;          // the name that the client gave itself
  std::uint64_t sessions = 1;  // more than 1: older sessions were added to this entry
  // Nobody reads it back from a report.
  std::optional<AgreedLimits> agreed = {};
  /// Adds the counters of a session that would otherwise be dropped, so that sums over all sessions
  /// stay right.
  void merge_older(const SessionReport& older) {
    sessions += older.sessions;
    if (agreed != older.agreed) agreed.reset();
    merge(older);
  }
  static void visit(auto&& each, auto& session) {
    each("id", session.id);
    each("client", session.client);
    each("sessions", session.sessions);
    if (session.agreed) {
      each("path_limit", session.agreed->path_limit);
      each("inline_bytes", session.agreed->inline_bytes);
    }
    each("paths", session.transport);
    each("ops", session.ops);
  }
};

/// What a runner's private mode did.
struct PrivacyReport {
  std::string mode;
  PrivacySnapshot counted;
  std::uint64_t pads_left = 0;  // made, and neither used nor wiped
  bool operator==(const PrivacyReport&) const = default;
  static void visit(auto&& each, auto& report) {
    each("mode", report.mode);
    PrivacySnapshot::visit(each, report.counted);
    each("pads_left", report.pads_left);
  }
};

/// All that one side says in its statistics. A plain value: counters are read before, once.
struct SideReport : CounterSums {
  std::string side;  // "tee_runner" or "gpu_server"
  HostReport host;
  std::vector<std::pair<std::string, std::string>> config;
  TeeSnapshotTable tee;  // the runner's
  // Of a runner that writes text.
  std::optional<TextSnapshot> text = {};
  // Of a runner in a private mode. Files have it, and nobody reads it back.
  std::optional<PrivacyReport> privacy = {};
  std::uint64_t wall_ns = 0;
  // The server's; merge() leaves them as they are.
  std::vector<SessionReport> sessions;
  static void visit(auto&& each, auto& report) {
    // First: what else there is to read depends on it.
    each("side", report.side);
    each("host", report.host);
    each("config", report.config);
    each("paths", report.transport);
    each("ops", report.ops);
    if (report.side == "tee_runner") each("tee", report.tee);
    if (report.text) each("text", *report.text);
    if (report.privacy) each("privacy", *report.privacy);
    each("wall_ns", report.wall_ns);
    if (report.side == "gpu_server") each("sessions", report.sessions);
  }
};

/// Percentiles, maximum and buckets, as each file has them.
JsonObject histogram_json(const HistogramSnapshot& histogram);
/// docs/STATS.md defines it. "tee" is the runner's, "sessions" the server's.
JsonObject report_object(const SideReport& report);
/// The same as one line.
std::string report_json(const SideReport& report);
/// Reads back what report_json() gives. The text is untrusted: kInvalidInput, beginning with
/// `source`, names the first key that is missing or does not fit, percentiles that are not those of
/// their buckets included. Unknown keys are ignored. Sums over ops, paths and files of what was
/// read fit a std::uint64_t.
Result<SideReport> read_report(std::string_view text, std::string_view source);
/// The same for a reader at a terminal: aligned columns, paths and ops that nothing went by are
/// left out.
std::string report_table(const SideReport& report);

}  // namespace airlock
