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
};

/// Books `times` and returns the op's latency: total less what the server reported.
inline std::uint64_t book_op(OpStats& stats, OpTimes times) {
  constexpr auto relaxed = std::memory_order_relaxed;
  std::uint64_t left = times.total_ns;
  auto take = [&left](std::uint64_t wanted) {
    const std::uint64_t taken = wanted < left ? wanted : left;
    left -= taken;
    return taken;
  };
  const std::uint64_t tee_ns = take(times.tee_ns);
  const std::uint64_t queue_ns = take(times.queue_ns);
  const std::uint64_t server_ns = take(times.server_ns);
  stats.calls.fetch_add(1, relaxed);
  stats.total_ns.fetch_add(times.total_ns, relaxed);
  stats.tee_ns.fetch_add(tee_ns, relaxed);
  stats.queue_ns.fetch_add(queue_ns, relaxed);
  stats.server_ns.fetch_add(server_ns, relaxed);
  stats.wire_ns.fetch_add(left, relaxed);
  return times.total_ns - queue_ns - server_ns;
}

}  // namespace airlock
