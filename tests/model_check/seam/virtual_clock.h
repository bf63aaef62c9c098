#pragma once

#include <chrono>
#include <cstdint>

namespace airlock {

/// The clock of the thread that the explorer runs: it stands still but for pauses, timeouts and
/// sleeps.
struct VirtualClock : std::chrono::steady_clock {
  inline static std::uint64_t ns = 0;
  static time_point now() { return time_point(std::chrono::nanoseconds(ns)); }
};

}  // namespace airlock
