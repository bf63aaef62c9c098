#pragma once

#include <cstdint>
#include <limits>

namespace airlock {

/// a + b, or 2^64 - 1 where that is beyond it: a sum of a file's numbers, which may be anything.
constexpr std::uint64_t add_saturating(std::uint64_t a, std::uint64_t b) {
  constexpr std::uint64_t kMost = std::numeric_limits<std::uint64_t>::max();
  return b > kMost - a ? kMost : a + b;
}

}  // namespace airlock
