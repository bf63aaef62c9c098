#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/enum.h"
#include "base/status.h"
#include "proto/pool.h"

namespace airlock {

/// When the system gives a pool's memory: page by page as it is touched, or all of it at start.
enum class PoolCommit { kLazy, kAll };
constexpr std::string_view name_of(PoolCommit commit) {
  switch (commit) {
    case PoolCommit::kLazy:
      return "lazy";
    case PoolCommit::kAll:
      return "all";
  }
  return {};
}

/// The shape of a server's pool: slots of one size, which sessions lease in runs.
struct PoolShape {
  /// A multiple of limits::kPoolPageBytes.
  std::uint64_t slot_bytes = 0;
  /// Slots that only one use gets; the spare ones are any's that has none left.
  PerValue<PoolUse, std::uint32_t> slots;
  std::uint32_t spare_slots = 0;
  bool operator==(const PoolShape&) const = default;

  std::uint64_t slot_count() const;
  std::uint64_t bytes() const { return slot_count() * slot_bytes; }
  /// What one session gets of a use at most: a quarter of its slots, one at least where one or a
  /// spare one may be had.
  std::uint64_t quota(PoolUse use) const;
  /// "16 slots of 256 MiB: 4 in, 4 out, 8 scratch"
  std::string to_string() const;
};
/// kInvalidInput unless a pool can have this shape, within limits.h.
Status check_shape(const PoolShape& shape);

/// Shapes that have names (docs/POOL.md).
enum class PoolProfile { kLow, kSmall, kStandard, kLarge, kHuge };
constexpr std::string_view name_of(PoolProfile profile) {
  switch (profile) {
    case PoolProfile::kLow:
      return "low";
    case PoolProfile::kSmall:
      return "small";
    case PoolProfile::kStandard:
      return "standard";
    case PoolProfile::kLarge:
      return "large";
    case PoolProfile::kHuge:
      return "huge";
  }
  return {};
}
PoolShape shape_of(PoolProfile profile);

/// Of a pool of about so many bytes, not more: sixteen slots, a quarter for each of input and
/// output. kInvalidInput where that makes no pool.
Result<PoolShape> shape_of_bytes(std::uint64_t bytes);

/// A pool takes at most this share of the memory that is available when it is chosen by itself.
inline constexpr std::uint64_t kAutoShare = 4;
/// The largest profile that takes at most 1/kAutoShare of `available_bytes`; nullopt: none does.
std::optional<PoolProfile> choose_profile(std::uint64_t available_bytes);

}  // namespace airlock
