#pragma once

#include <chrono>
#include <cstdint>
#include <mutex>
#include <string_view>

#include "base/deadline.h"
#include "base/log.h"

namespace airlock {

/// Keeps what a peer does again and again from filling the log: ten lines at once and then one a
/// second are logged, the rest is counted, and the next line says how many more there were like it.
/// One for each cause, a member of whoever logs; not one for each peer, of which there may be any
/// number. Thread-safe.
///
///   LogLimiter junk_;
///   junk_.log(LogLevel::kWarning, "control socket: " + status.message());
///   junk_.tell(LogLevel::kWarning, "messages on the control socket");  // now and then
class LogLimiter {
 public:
  static constexpr std::uint32_t kBurst = 10;
  static constexpr std::chrono::nanoseconds kInterval = std::chrono::seconds(1);

  /// Logs `text`, or counts it. "TEXT" or "TEXT (and 7 more like it)".
  void log(LogLevel level, std::string_view text, std::uint64_t at_ns = now_ns()) noexcept;
  /// Once a line is due again and some were only counted: "7 more lines about WHAT". For a loop
  /// that comes round now and then, so that the last of a flood are told when it has ended.
  void tell(LogLevel level, std::string_view what, std::uint64_t at_ns = now_ns()) noexcept;

 private:
  bool take_turn(std::uint64_t at_ns);

  std::mutex mutex_;
  // Lines that may be logged at once, since refilled_ns_.
  std::uint32_t turns_ = kBurst;
  std::uint64_t refilled_ns_ = 0;
  std::uint64_t counted_ = 0;
};

}  // namespace airlock
