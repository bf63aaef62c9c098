#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace airlock::report {

enum class Unit : std::uint8_t { kCount, kTime, kBytes };

/// A mark on an axis.
struct Tick {
  std::uint64_t value = 0;
  std::string label;  // plain text: "20 ms"
  bool operator==(const Tick&) const = default;
};

/// From 0 to the first round value that is not under `max`, in at most `most` equal steps: 1, 2 or
/// 5 times a power of ten, for bytes a power of two.
std::vector<Tick> linear_ticks(std::uint64_t max, std::size_t most, Unit unit);
/// Of an axis with a logarithmic scale: powers of ten within [low, high], every one or every n-th;
/// with 3, or 2 and 5, times them where they are few. Times; at most `most`.
std::vector<Tick> log_ticks(std::uint64_t low, std::uint64_t high, std::size_t most);

}  // namespace airlock::report
