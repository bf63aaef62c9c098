#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>

namespace airlock {

using Clock = std::chrono::steady_clock;

/// Nanoseconds of the steady clock; differences only.
inline std::uint64_t now_ns() {
  return static_cast<std::uint64_t>(
      std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now().time_since_epoch())
          .count());
}

/// As the command line has them, up to some hundred years.
inline std::chrono::nanoseconds from_seconds(double seconds) {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
      std::chrono::duration<double>(seconds));
}

/// A point on the steady clock at which a wait gives up. Every wait takes one.
class Deadline {
 public:
  static Deadline after(std::chrono::nanoseconds span) { return Deadline(Clock::now() + span); }
  /// Already over: try once, do not wait.
  static Deadline now() { return Deadline(Clock::time_point::min()); }

  bool expired() const { return Clock::now() >= at_; }
  /// Time left, never negative.
  std::chrono::nanoseconds remaining() const {
    if (at_ == Clock::time_point::min()) return std::chrono::nanoseconds(0);
    return std::max(std::chrono::nanoseconds(0),
                    std::chrono::duration_cast<std::chrono::nanoseconds>(at_ - Clock::now()));
  }
  /// The earlier of this and `span` from now: one slice of a longer wait.
  Deadline slice(std::chrono::nanoseconds span) const {
    return Deadline(std::min(at_, Clock::now() + span));
  }

 private:
  explicit Deadline(Clock::time_point at) : at_(at) {}
  Clock::time_point at_;
};

}  // namespace airlock
