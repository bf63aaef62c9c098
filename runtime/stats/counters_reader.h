#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"
#include "runtime/stats/counters_file.h"

namespace airlock {

/// What a server counted, at one moment. A plain value.
struct CountersSnapshot {
  ServerInfo server;
  /// As the server's own. From a file there is one entry, the first, for all sessions that ended,
  /// and wall_ns is up to the last heartbeat where the server is dead.
  SideReport report;
  OpHistogramSnapshots service_ns;
  std::uint64_t pid = 0;
  // A process holds the file; one that was stopped does too.
  bool alive = false;
  std::uint64_t heartbeat_age_ns = 0;
  std::uint64_t sessions_active = 0;
  std::uint64_t sessions_started = 0;
  std::uint64_t sessions_refused = 0;
  /// Where the server has a pool (server.pool): how it is used, and the sessions under way that
  /// asked for some of it. Checked against each other too, where `settled`: extents lie in slots of
  /// their use or spare ones and none meets another, and figures that bound others do.
  PoolFigures pool;
  struct Holder {
    std::string session;
    std::string client;  // as it told
    SessionLease lease;
    std::uint64_t age_ns = 0;
  };
  std::vector<Holder> holders;
  /// False: the server stands still in the middle of adding or ending a session, which the sums may
  /// hold twice or not at all.
  bool settled = true;
};

/// Fills in what `live` says.
void take_live(const counters_layout::Live& live, CountersSnapshot& snapshot);

/// Reads the counters file of a server on this machine and takes no lock: the server notices
/// nothing. The file is believed in nothing: it must be a regular file of ours (no link, 0600), of
/// this version, and every size, count and text must be sane. It is read, never mapped, so that one
/// that shrinks meanwhile is an error and not a signal. kUnavailable: there is none, or it is being
/// made. kVersionMismatch: another version's. kInvalidInput: anything else, with the reason.
Result<CountersSnapshot> read_counters_file(const std::string& path);

}  // namespace airlock
