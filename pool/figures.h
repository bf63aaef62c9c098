#pragma once

#include <cstdint>

#include "base/enum.h"
#include "proto/pool.h"

namespace airlock {

/// How a pool is used at one moment, and was since its start. A plain value.
struct PoolFigures {
  /// Of slots that nobody has.
  struct Free {
    std::uint64_t slots = 0;
    std::uint64_t longest_run = 0;
    bool operator==(const Free&) const = default;
  };
  /// Of the slots that only one use gets, and of the spare ones.
  PerValue<PoolUse, Free> own;
  Free spare;
  /// What leases have now, in whole pages, and the most that they had at one time.
  PerValue<PoolUse, std::uint64_t> leased_bytes;
  PerValue<PoolUse, std::uint64_t> high_water_bytes;
  /// Of all uses together.
  std::uint64_t high_water_all_bytes = 0;
  /// Leases, one for each use that a session asked for: those that were granted; of these, those
  /// that got fewer slots than asked for and allowed, for want of room; those for which there was
  /// no room at all, or no memory.
  std::uint64_t granted = 0;
  std::uint64_t cut_short = 0;
  std::uint64_t refused = 0;
  bool operator==(const PoolFigures&) const = default;

  std::uint64_t leased_all_bytes() const {
    std::uint64_t all = 0;
    for (const std::uint64_t bytes : leased_bytes) all += bytes;
    return all;
  }
};

}  // namespace airlock
