#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>

#include "base/deadline.h"

namespace airlock {

/// When a thread last moved, as it says itself wherever it turns: others see by it whether it
/// hangs. Thread-safe.
class Pulse {
 public:
  void beat() { last_ns_.store(now_ns(), std::memory_order_relaxed); }
  /// Since the last beat, or since this was made.
  std::chrono::nanoseconds age() const {
    const std::uint64_t last = last_ns_.load(std::memory_order_relaxed);
    const std::uint64_t now = now_ns();
    return std::chrono::nanoseconds(now > last ? now - last : 0);
  }

 private:
  // Orders nothing: the value alone counts.
  std::atomic<std::uint64_t> last_ns_{now_ns()};
};

}  // namespace airlock
