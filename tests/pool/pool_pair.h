#pragma once

#include <unistd.h>

#include <memory>
#include <vector>

#include "pool/lease.h"
#include "pool/region.h"

namespace airlock::testing_rigs {

/// A small pool and what one session has of it, at both ends, each with a mapping of its own.
struct PoolPair {
  static constexpr std::uint64_t kSlotBytes = 64 << 10;
  static constexpr PoolShape kShape{kSlotBytes, {{8, 8, 4}}, 0};

  explicit PoolPair(PoolWish wish = {{2 * kSlotBytes, 2 * kSlotBytes, 0}})
      : region(PoolRegion::create(kShape, PoolCommit::kLazy).value()) {
    std::vector<PoolExtent> extents;
    std::vector<UniqueFd> memory;
    for (const PoolUse use : kValuesOf<PoolUse>) {
      if (wish[use] == 0) continue;
      granted.push_back(region->grant(use, wish[use]).value());
      extents.push_back(granted.back().extent());
      memory.emplace_back(::dup(granted.back().memory().get()));
    }
    lease = PoolLease::map(extents, memory, wish).value();
  }
  PoolMap server_map() const {
    PoolMap map;
    for (const GrantedExtent& extent : granted) map.add(extent.extent().offset, extent.bytes());
    return map;
  }

  std::unique_ptr<PoolRegion> region;
  std::vector<GrantedExtent> granted;
  std::unique_ptr<PoolLease> lease;
};

}  // namespace airlock::testing_rigs
