#pragma once

#include "runtime/stats/counters_reader.h"

namespace airlock::pool_tool {

inline constexpr std::uint64_t kSlot = 1 << 20;

/// Of a server with 4 slots for operands, 2 for results and 2 spare ones; one session has the
/// second and third of the first and a spare one, and there is one that got nothing.
inline CountersSnapshot some_snapshot() {
  CountersSnapshot snapshot;
  snapshot.server.endpoint = "ipc:///x/ctl";
  snapshot.server.max_clients = 8;
  snapshot.server.ring_on = true;
  snapshot.server.host.device = "cpu";
  snapshot.server.pool = {kSlot, {{4, 2, 0}}, 2};
  snapshot.pid = 42;
  snapshot.alive = true;
  snapshot.sessions_active = 2;
  PoolFigures& pool = snapshot.pool;
  pool.own = {{PoolFigures::Free{2, 1}, PoolFigures::Free{2, 2}, PoolFigures::Free{}}};
  pool.spare = {1, 1};
  pool.leased_bytes = {{2 * kSlot, 4096, 0}};
  pool.high_water_bytes = {{4 * kSlot, 4096, 0}};
  pool.high_water_all_bytes = 4 * kSlot + 4096;
  pool.granted = 9;
  pool.cut_short = 3;
  pool.refused = 2;
  snapshot.holders = {
      {"0000000000000abc",
       "python pid 5",
       {0,
        {{2 * kSlot, 4096, 0}},
        {{PoolUse::kInput, kSlot, 2 * kSlot}, {PoolUse::kOutput, 6 * kSlot, 4096}}},
       1'500'000'000},
      {"0000000000000def", "evil\x1b[2J pid 6", {0, {{0, 0, 4096}}, {}}, 100'000'000}};
  return snapshot;
}

}  // namespace airlock::pool_tool
