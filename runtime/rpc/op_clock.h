#pragma once

#include <cstdint>

#include "runtime/stats/op_stats.h"

namespace airlock {

/// Bounds the parts of `times`, books them and returns the op's latency: total less what the server
/// reported.
inline std::uint64_t book_op(OpStats& stats, OpTimes& times) {
  std::uint64_t left = times.total_ns;
  auto take = [&left](std::uint64_t wanted) {
    const std::uint64_t taken = wanted < left ? wanted : left;
    left -= taken;
    return taken;
  };
  times.tee_ns = take(times.tee_ns);
  times.queue_ns = take(times.queue_ns);
  times.server_ns = take(times.server_ns);
  times.wire_ns = left;
  merge(stats, OpSnapshot{1, times});
  return times.total_ns - times.queue_ns - times.server_ns;
}

}  // namespace airlock
