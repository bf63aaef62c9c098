#pragma once

#include <memory>

#include "runtime/backend.h"
#include "runtime/stats/op_stats.h"

namespace airlock {

/// Decorates a local Backend: books each op that was waited for in an OpStatsTable, as
/// RemoteBackend does for its own. total is the time that the caller spent inside submit() and
/// wait(), server_ns the computation, wire_ns the rest (the cost of the call itself). Backend and
/// table outlive it. One thread.
class MeasuredBackend : public Backend {
 public:
  static std::unique_ptr<MeasuredBackend> create(Backend& inner, OpStatsTable& stats);
};

}  // namespace airlock
