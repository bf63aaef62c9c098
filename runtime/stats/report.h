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
  std::string device;                    // what the backend computes on
  std::optional<DeviceReport> gpu = {};  // where that is a GPU of this machine
  bool operator==(const HostReport&) const = default;
};
HostReport describe_host(std::string_view device);

/// What a server keeps of a session, under way or over. A plain value.
struct SessionReport {
  std::string id;
  std::string client;          // the name that the client gave itself
  std::uint64_t sessions = 1;  // more than 1: older sessions were added to this entry
  TransportSnapshot transport;
  OpSnapshotTable ops;
  /// Adds the counters of a session that would otherwise be dropped, so that sums over all sessions
  /// stay right.
  void merge_older(const SessionReport& older);
};

/// All that one side says in its statistics. A plain value: counters are read before, once.
struct SideReport {
  std::string side;  // "tee_runner" or "gpu_server"
  HostReport host;
  std::vector<std::pair<std::string, std::string>> config;
  TransportSnapshot transport;
  OpSnapshotTable ops;
  TeeSnapshotTable tee;  // the runner's
  std::uint64_t wall_ns = 0;
  std::vector<SessionReport> sessions;  // the server's
  /// Adds a session's counters to `transport` and `ops`; `sessions` stays as it is.
  void merge(const SessionReport& session);
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
