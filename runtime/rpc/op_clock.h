#pragma once

#include <cstdint>

#include "runtime/stats/op_stats.h"

namespace airlock {

/// The parts of one remote op's time, as they are booked: total = tee + wire + queue + server, wire
/// never negative.
struct OpTimes {
  std::uint64_t total_ns = 0;
  std::uint64_t tee_ns = 0;
  std::uint64_t queue_ns = 0;   // the server's word: bounded by what is left of total
  std::uint64_t server_ns = 0;  // the server's word: bounded by what is left of total
  std::uint64_t wire_ns = 0;    // the rest
};

/// Bounds the parts of `times`, books them and returns the op's latency: total less what the server
/// reported.
inline std::uint64_t book_op(OpStats& stats, OpTimes& times) {
  constexpr auto relaxed = std::memory_order_relaxed;
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
  stats.calls.fetch_add(1, relaxed);
  stats.total_ns.fetch_add(times.total_ns, relaxed);
  stats.tee_ns.fetch_add(times.tee_ns, relaxed);
  stats.queue_ns.fetch_add(times.queue_ns, relaxed);
  stats.server_ns.fetch_add(times.server_ns, relaxed);
  stats.wire_ns.fetch_add(times.wire_ns, relaxed);
  return times.total_ns - times.queue_ns - times.server_ns;
}

}  // namespace airlock
