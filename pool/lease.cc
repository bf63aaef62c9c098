#include "pool/lease.h"

#include <algorithm>

#include "shm/sealed_memory.h"

namespace airlock {

PoolBlock::~PoolBlock() {
  if (lease_ != nullptr) lease_->room_[use_].give(place_.offset(), bytes_);
}

Result<std::unique_ptr<PoolLease>> PoolLease::map(const std::vector<PoolExtent>& extents,
                                                  std::span<const UniqueFd> memory,
                                                  const PoolWish& wish) {
  if (memory.size() != extents.size()) {
    return Status(StatusCode::kProtocolError, "{} memories came for the {} extents of a lease",
                  memory.size(), extents.size());
  }
  std::unique_ptr<PoolLease> lease(new PoolLease());
  PoolWish left = wish;
  for (std::size_t i = 0; i < extents.size(); ++i) {
    const PoolExtent& extent = extents[i];
    if (extent.bytes > whole_pages(left[extent.use])) {
      return Status(StatusCode::kProtocolError,
                    "the server leases {} bytes of its pool ({}), {} were asked for", extent.bytes,
                    name_of(extent.use), wish[extent.use]);
    }
    left[extent.use] -= std::min(extent.bytes, left[extent.use]);
    RETURN_IF_ERROR(check_sealed_memory(memory[i], extent.bytes));
    auto mapped = Mapping::of(memory[i], extent.bytes);
    if (!mapped.ok()) continue;  // its tensors go by ZeroMQ then, and are counted
    ASSIGN_OR_RETURN(SegmentGuard guard,
                     SegmentGuard::create(mapped->bytes().data(), extent.bytes));
    lease->map_.add(extent.offset, mapped->bytes());
    lease->mapped_.push_back(std::move(mapped).value());
    lease->guards_.push_back(std::move(guard));
    lease->room_[extent.use].add(extent.offset, extent.bytes);
    lease->leased_[extent.use] += extent.bytes;
  }
  return lease;
}

bool PoolLease::faulted() const {
  return std::ranges::any_of(guards_, [](const SegmentGuard& guard) { return guard.faulted(); });
}

std::optional<PoolBlock> PoolLease::take(PoolUse use, std::size_t bytes) {
  const auto offset = room_[use].take(bytes);
  if (!offset) return std::nullopt;
  return PoolBlock(*this, use, PoolPlace::at(*offset), bytes);
}

}  // namespace airlock
