#pragma once

#include <cstdint>
#include <string>

#include "base/status.h"
#include "runtime/stats/report.h"

namespace airlock {

/// What a server's counters file said at one moment. A plain value.
struct CountersSnapshot {
  /// As the server's own; of the sessions that ended there is one entry for all, first. wall_ns is
  /// up to the last heartbeat where the server is dead.
  SideReport report;
  OpHistogramSnapshots service_ns;
  std::string endpoint;
  std::string dtype;
  std::uint64_t pid = 0;
  std::uint64_t start_unix_ns = 0;
  bool alive = false;  // a process holds the file; one that was stopped does too
  std::uint64_t heartbeat_age_ns = 0;
  std::uint64_t sessions_active = 0;
  std::uint64_t sessions_started = 0;
  std::uint64_t sessions_refused = 0;
  std::uint64_t max_clients = 0;
  /// False: the server stands still in the middle of adding or ending a session, which the sums may
  /// hold twice or not at all.
  bool settled = true;
};

/// Reads the counters file of a server on this machine and takes no lock: the server notices
/// nothing. The file is believed in nothing: it must be a regular file of ours (no link, 0600), of
/// this version, and every size, count and text must be sane. It is read, never mapped, so that one
/// that shrinks meanwhile is an error and not a signal. kUnavailable: there is none, or it is being
/// made. kVersionMismatch: another version's. kInvalidInput: anything else, with the reason.
Result<CountersSnapshot> read_counters_file(const std::string& path);

}  // namespace airlock
