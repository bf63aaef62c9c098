#pragma once

#include <cstdint>

namespace airlock {

/// splitmix64's finalizer (Steele, Lea, Flood 2014): neighbours end far apart.
constexpr std::uint64_t mix(std::uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9U;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebU;
  return x ^ (x >> 31);
}

}  // namespace airlock
