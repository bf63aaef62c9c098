#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "base/enum.h"
#include "base/status.h"
#include "proto/limits.h"

namespace airlock {

/// What a session leases memory of the server's pool for.
enum class PoolUse : std::uint8_t { kInput = 0, kOutput = 1, kScratch = 2 };

/// As options, tables and messages call it.
constexpr std::string_view name_of(PoolUse use) {
  switch (use) {
    case PoolUse::kInput:
      return "in";
    case PoolUse::kOutput:
      return "out";
    case PoolUse::kScratch:
      return "scratch";
  }
  return {};
}

/// The whole pages that hold `bytes`, in bytes.
constexpr std::uint64_t whole_pages(std::uint64_t bytes) {
  constexpr std::uint64_t kPage = limits::kPoolPageBytes;
  return (bytes + kPage - 1) / kPage * kPage;
}

/// Where in the server's pool a tensor lies, in pages; or nowhere: it crosses by another path.
/// Chosen by the runner, inside its own lease, for the tensors of a request and of its reply.
class PoolPlace {
 public:
  constexpr PoolPlace() = default;
  /// A multiple of limits::kPoolPageBytes, less than limits::kMaxPoolBytes.
  static constexpr PoolPlace at(std::uint64_t offset) {
    PoolPlace place;
    place.number = static_cast<std::uint32_t>(offset / limits::kPoolPageBytes + 1);
    return place;
  }

  constexpr bool is_nowhere() const { return number == 0; }
  /// From the pool's begin, in bytes; of a place that is somewhere.
  constexpr std::uint64_t offset() const {
    return (std::uint64_t{number} - 1) * limits::kPoolPageBytes;
  }
  bool operator==(const PoolPlace&) const = default;

  /// As it crosses: 0 is nowhere, else the page's number from 1 on.
  std::uint32_t number = 0;
};

/// A run of the pool's slots that one session has leased: one memory, mapped whole.
struct PoolExtent {
  PoolUse use = PoolUse::kInput;
  /// From the pool's begin.
  std::uint64_t offset = 0;
  std::uint64_t bytes = 0;
  bool operator==(const PoolExtent&) const = default;
};
/// kProtocolError unless each is whole pages inside the largest pool, and none meets another.
Status check_extents(const std::vector<PoolExtent>& extents);

/// What a runner asks for, in bytes of each use; none: it uses no pool. The server gives no more
/// than that, and no more than it has for one session.
using PoolWish = PerValue<PoolUse, std::uint64_t>;
constexpr bool wants_pool(const PoolWish& wish) {
  for (const std::uint64_t bytes : wish) {
    if (bytes != 0) return true;
  }
  return false;
}

}  // namespace airlock
