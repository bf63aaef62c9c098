#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <utility>

#include "base/status.h"
#include "base/unique_fd.h"
#include "pool/figures.h"
#include "pool/first_fit.h"
#include "pool/mapping.h"
#include "pool/shape.h"
#include "proto/pool.h"
#include "shm/segment_guard.h"

namespace airlock {

class PoolRegion;

/// A run of a region's slots that one session has. Its memory is new and its own: nobody else has
/// had it or will. Where it goes the slots are free at once. Must not outlive its region.
/// Move-only; one thread.
class GrantedExtent {
 public:
  GrantedExtent(GrantedExtent&& other) noexcept
      : region_(std::exchange(other.region_, nullptr)),
        extent_(other.extent_),
        memory_(std::move(other.memory_)),
        guard_(std::move(other.guard_)),
        handed_out_(other.handed_out_),
        discarded_(other.discarded_),
        counted_(other.counted_) {}
  GrantedExtent& operator=(GrantedExtent&& other) noexcept {
    std::swap(region_, other.region_);
    std::swap(extent_, other.extent_);
    std::swap(memory_, other.memory_);
    std::swap(guard_, other.guard_);
    std::swap(handed_out_, other.handed_out_);
    std::swap(discarded_, other.discarded_);
    std::swap(counted_, other.counted_);
    return *this;
  }
  ~GrantedExtent();

  const PoolExtent& extent() const { return extent_; }
  const UniqueFd& memory() const { return memory_; }
  /// A copy of its descriptor, for the client alone. kResourceExhausted.
  Result<UniqueFd> hand_out();
  /// Where the server maps it.
  std::span<std::byte> bytes() const;
  /// Gives its memory back to the system, though the client may still map it: everybody reads
  /// zeros.
  void discard();
  /// There was no page for it at some time: what was written or read since may be lost.
  bool faulted() const { return guard_ && guard_->faulted(); }

 private:
  friend class PoolRegion;
  GrantedExtent(PoolRegion& region, const PoolExtent& extent, UniqueFd memory)
      : region_(&region), extent_(extent), memory_(std::move(memory)) {}

  PoolRegion* region_;
  PoolExtent extent_;
  UniqueFd memory_;
  std::unique_ptr<SegmentGuard> guard_;
  bool handed_out_ = false;
  bool discarded_ = false;
  bool counted_ = false;  // in the region's figures
};

/// The server's pool: one contiguous range of its address space, in slots. What is leased of it
/// lies there as shared memory of the lease's own, so a client can map no other's; the rest is
/// nothing but addresses. Who has what is known here, in private memory, and no client is asked.
/// Thread-safe.
class PoolRegion {
 public:
  /// kResourceExhausted: no address space, or, for PoolCommit::kAll, no memory.
  static Result<std::unique_ptr<PoolRegion>> create(const PoolShape& shape, PoolCommit commit);
  PoolRegion(const PoolRegion&) = delete;
  PoolRegion& operator=(const PoolRegion&) = delete;

  /// A run of slots for `bytes` of `use`, or for as much as one session may have and there is; of
  /// the last slot no more than that, in whole pages. kResourceExhausted: there is none, or no
  /// memory; says what is needed, what is free, and the longest run.
  Result<GrantedExtent> grant(PoolUse use, std::uint64_t bytes);
  const PoolShape& shape() const { return shape_; }
  PoolFigures figures() const;

 private:
  friend class GrantedExtent;
  PoolRegion(const PoolShape& shape, PoolCommit commit);
  std::uint64_t wanted_slots(PoolUse use, std::uint64_t bytes) const;
  std::uint64_t slots_of(const PoolExtent& extent) const {
    return (extent.bytes + shape_.slot_bytes - 1) / shape_.slot_bytes;
  }
  Result<GrantedExtent> try_grant(PoolUse use, std::uint64_t bytes);
  Result<std::pair<std::uint64_t, std::uint64_t>> take_slots(PoolUse use, std::uint64_t bytes);
  void give_slots(std::uint64_t first, std::uint64_t count);
  Result<UniqueFd> make_memory(const PoolExtent& extent) const;
  void give_back(GrantedExtent& granted);

  const PoolShape shape_;
  const PoolCommit commit_;
  Mapping addresses_;
  /// PoolCommit::kAll: holds the memory of the slots that nobody has.
  UniqueFd reserve_;
  mutable std::mutex mutex_;
  PerValue<PoolUse, FirstFit> own_;  // slot numbers; guarded by mutex_
  FirstFit spare_;                   // slot numbers; guarded by mutex_
  PoolFigures figures_;              // all but what is free; guarded by mutex_
};

}  // namespace airlock
