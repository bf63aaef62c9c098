#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "base/status.h"
#include "base/unique_fd.h"
#include "pool/first_fit.h"
#include "pool/mapping.h"
#include "pool/pool_map.h"
#include "proto/pool.h"
#include "shm/segment_guard.h"

namespace airlock {

class PoolLease;

/// A place in a lease that one tensor has; given back when it goes. Must not outlive its lease.
/// Move-only; one thread.
class PoolBlock {
 public:
  PoolBlock(PoolBlock&& other) noexcept
      : lease_(std::exchange(other.lease_, nullptr)),
        use_(other.use_),
        place_(other.place_),
        bytes_(other.bytes_) {}
  PoolBlock& operator=(PoolBlock&&) = delete;
  ~PoolBlock();

  PoolPlace place() const { return place_; }

 private:
  friend class PoolLease;
  PoolBlock(PoolLease& lease, PoolUse use, PoolPlace place, std::size_t bytes)
      : lease_(&lease), use_(use), place_(place), bytes_(bytes) {}

  PoolLease* lease_;
  PoolUse use_;
  PoolPlace place_;
  std::size_t bytes_;
};

/// The runner's end of a pool: the extents that its session has leased, and nobody else's memory.
/// Divides them by itself, first fit, in pages of limits::kPoolPageBytes; the server is not asked.
/// One thread; outlives its blocks.
class PoolLease {
 public:
  /// `extents` (check_extents()) as the server says, at most what `wish` asked for in each use, and
  /// the memory of each, in their order. kProtocolError: more than that, or no sealed memory of
  /// that size. What finds no address space is left out.
  static Result<std::unique_ptr<PoolLease>> map(const std::vector<PoolExtent>& extents,
                                                std::span<const UniqueFd> memory,
                                                const PoolWish& wish);

  /// The lowest place of `bytes` (more than 0); nullopt: no room.
  std::optional<PoolBlock> take(PoolUse use, std::size_t bytes);
  const PoolMap& pool_map() const { return map_; }
  std::uint64_t longest_run(PoolUse use) const { return room_[use].longest_run(); }
  std::uint64_t leased_bytes(PoolUse use) const { return leased_[use]; }
  std::uint64_t free_bytes(PoolUse use) const { return room_[use].free_length(); }
  /// There was no page for some of it at some time: what was written or read since may be lost.
  bool faulted() const;

 private:
  friend class PoolBlock;
  PoolLease() = default;

  std::vector<Mapping> mapped_;
  std::vector<SegmentGuard> guards_;
  PoolMap map_;
  PerValue<PoolUse, std::uint64_t> leased_{};
  PerValue<PoolUse, FirstFit> room_{{FirstFit(limits::kPoolPageBytes),
                                     FirstFit(limits::kPoolPageBytes),
                                     FirstFit(limits::kPoolPageBytes)}};
};

}  // namespace airlock
