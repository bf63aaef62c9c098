#include "base/log_limiter.h"

#include <fmt/format.h>

#include <algorithm>
#include <exception>
#include <string>
#include <utility>

namespace airlock {

bool LogLimiter::take_turn(std::uint64_t at_ns) {
  constexpr auto kIntervalNs = static_cast<std::uint64_t>(kInterval.count());
  const std::uint64_t since = at_ns - std::min(at_ns, refilled_ns_);
  if (since >= kIntervalNs) {
    turns_ =
        static_cast<std::uint32_t>(std::min<std::uint64_t>(kBurst, turns_ + since / kIntervalNs));
    refilled_ns_ = at_ns - since % kIntervalNs;
  }
  if (turns_ == 0) return false;
  --turns_;
  return true;
}

void LogLimiter::log(LogLevel level, std::string_view text, std::uint64_t at_ns) noexcept {
  std::uint64_t more = 0;
  {
    const std::lock_guard lock(mutex_);
    if (!take_turn(at_ns)) {
      ++counted_;
      return;
    }
    more = std::exchange(counted_, 0);
  }
  if (more == 0) return airlock::log(level, text);
  try {
    airlock::log(level, fmt::format("{} (and {} more like it)", text, more));
  } catch (const std::exception&) {
    airlock::log(level, text);
  }
}

void LogLimiter::tell(LogLevel level, std::string_view what, std::uint64_t at_ns) noexcept {
  std::uint64_t more = 0;
  {
    const std::lock_guard lock(mutex_);
    if (counted_ == 0 || !take_turn(at_ns)) return;
    more = std::exchange(counted_, 0);
  }
  try {
    airlock::log(level, fmt::format("{} more lines about {}", more, what));
  } catch (const std::exception&) {
    airlock::log(level, what);
  }
}

}  // namespace airlock
