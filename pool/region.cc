#include "pool/region.h"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <string>

#include "base/available_memory.h"
#include "base/file.h"
#include "base/thread.h"
#include "shm/sealed_memory.h"

namespace airlock {
namespace {

constexpr const char* kName = "airlock-pool";

/// From the first slot of each use on, then the spare ones.
std::uint64_t first_slot_of(const PoolShape& shape, PoolUse use) {
  std::uint64_t first = 0;
  for (const PoolUse before : kValuesOf<PoolUse>) {
    if (before < use) first += shape.slots[before];
  }
  return first;
}
std::uint64_t first_spare(const PoolShape& shape) { return shape.slot_count() - shape.spare_slots; }

/// Takes [at, at + bytes) from the system.
Status commit(const UniqueFd& memory, std::uint64_t at, std::uint64_t bytes) {
  int error = 0;
  do {
    error = ::posix_fallocate(memory.get(), static_cast<off_t>(at), static_cast<off_t>(bytes));
  } while (error == EINTR);
  return error == 0 ? Status() : os_error("take memory for the pool", error);
}
void uncommit(const UniqueFd& memory, std::uint64_t at, std::uint64_t bytes) {
  (void)::fallocate(memory.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                    static_cast<off_t>(at), static_cast<off_t>(bytes));
}

/// Looked at before memory is given out, each time by itself: memory that was promised and not yet
/// touched is not counted.
Status check_memory(std::uint64_t bytes) {
  const auto available = memory_available_bytes();
  if (!available || *available >= bytes) return {};
  return {StatusCode::kResourceExhausted, "the pool needs {} bytes of memory, {} are available",
          bytes, *available};
}

}  // namespace

GrantedExtent::~GrantedExtent() {
  if (region_ != nullptr) region_->give_back(*this);
}

std::span<std::byte> GrantedExtent::bytes() const {
  return region_->addresses_.bytes().subspan(extent_.offset, extent_.bytes);
}

Result<UniqueFd> GrantedExtent::hand_out() {
  UniqueFd copy(::fcntl(memory_.get(), F_DUPFD_CLOEXEC, 0));
  if (!copy.valid()) return os_error("copy the pool's descriptor", errno);
  handed_out_ = true;
  return copy;
}

void GrantedExtent::discard() {
  empty_memory(memory_, extent_.bytes);
  discarded_ = true;
}

PoolRegion::PoolRegion(const PoolShape& shape, PoolCommit commit)
    : shape_(shape), commit_(commit), own_{{FirstFit(1), FirstFit(1), FirstFit(1)}}, spare_(1) {
  for (const PoolUse use : kValuesOf<PoolUse>) {
    if (shape.slots[use] > 0) own_[use].add(first_slot_of(shape, use), shape.slots[use]);
  }
  if (shape.spare_slots > 0) spare_.add(first_spare(shape), shape.spare_slots);
}

Result<std::unique_ptr<PoolRegion>> PoolRegion::create(const PoolShape& shape,
                                                       PoolCommit commit_mode) {
  RETURN_IF_ERROR(check_shape(shape));
  std::unique_ptr<PoolRegion> region(new PoolRegion(shape, commit_mode));
  ASSIGN_OR_RETURN(region->addresses_, Mapping::reserve(shape.bytes()));
  if (commit_mode == PoolCommit::kAll) {
    RETURN_IF_ERROR(check_memory(shape.bytes()));
    ASSIGN_OR_RETURN(region->reserve_, make_sealed_memory(kName, shape.bytes()));
    RETURN_IF_ERROR(commit(region->reserve_, 0, shape.bytes()));
  }
  return region;
}

/// No more than one session may have.
std::uint64_t PoolRegion::wanted_slots(PoolUse use, std::uint64_t bytes) const {
  const std::uint64_t needed = bytes / shape_.slot_bytes + (bytes % shape_.slot_bytes != 0);
  return std::max<std::uint64_t>(1, std::min(needed, shape_.quota(use)));
}

PoolFigures PoolRegion::figures() const {
  const std::lock_guard lock(mutex_);
  PoolFigures figures = figures_;
  const auto free = [](const FirstFit& slots) {
    return PoolFigures::Free{slots.free_length(), slots.longest_run()};
  };
  for (const PoolUse use : kValuesOf<PoolUse>) figures.own[use] = free(own_[use]);
  figures.spare = free(spare_);
  return figures;
}

/// The first slot and how many.
Result<std::pair<std::uint64_t, std::uint64_t>> PoolRegion::take_slots(PoolUse use,
                                                                       std::uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  FirstFit& own = own_[use];
  const std::uint64_t longest = std::max(own.longest_run(), spare_.longest_run());
  const std::uint64_t wanted = wanted_slots(use, bytes);
  const std::uint64_t count = std::min(wanted, longest);
  if (count == 0) {
    return Status(StatusCode::kResourceExhausted,
                  "the pool is full: {} slots of {} bytes are needed for {}, {} are free, the "
                  "longest run has {}",
                  wanted, shape_.slot_bytes, name_of(use), own.free_length() + spare_.free_length(),
                  longest);
  }
  auto first = own.take(count);
  if (!first) first = spare_.take(count);
  CHECK(first);  // the longest run is one of theirs
  return std::pair(*first, count);
}

void PoolRegion::give_slots(std::uint64_t first, std::uint64_t count) {
  const std::lock_guard lock(mutex_);
  if (first >= first_spare(shape_)) return spare_.give(first, count);
  for (const PoolUse use : kValuesOf<PoolUse>) {
    const std::uint64_t begin = first_slot_of(shape_, use);
    if (first >= begin && first < begin + shape_.slots[use]) return own_[use].give(first, count);
  }
}

Result<UniqueFd> PoolRegion::make_memory(const PoolExtent& extent) const {
  if (commit_ == PoolCommit::kLazy) RETURN_IF_ERROR(check_memory(extent.bytes));
  ASSIGN_OR_RETURN(UniqueFd memory, make_sealed_memory(kName, extent.bytes));
  if (commit_ == PoolCommit::kLazy) return memory;
  // From hand to hand: what others take in between is little.
  uncommit(reserve_, extent.offset, extent.bytes);
  Status taken = check_memory(extent.bytes);
  if (taken.ok()) taken = commit(memory, 0, extent.bytes);
  if (taken.ok()) return memory;
  memory.reset();
  (void)commit(reserve_, extent.offset, extent.bytes);
  return taken;
}

Result<GrantedExtent> PoolRegion::grant(PoolUse use, std::uint64_t bytes) {
  auto granted = try_grant(use, bytes);
  const std::lock_guard lock(mutex_);
  if (!granted.ok()) {
    figures_.refused += 1;
    return granted;
  }
  const PoolExtent& extent = granted->extent();
  figures_.granted += 1;
  if (slots_of(extent) < wanted_slots(use, bytes)) figures_.cut_short += 1;
  std::uint64_t& leased = figures_.leased_bytes[use];
  leased += extent.bytes;
  std::uint64_t& most = figures_.high_water_bytes[use];
  most = std::max(most, leased);
  figures_.high_water_all_bytes =
      std::max(figures_.high_water_all_bytes, figures_.leased_all_bytes());
  granted->counted_ = true;
  return granted;
}

Result<GrantedExtent> PoolRegion::try_grant(PoolUse use, std::uint64_t bytes) {
  ASSIGN_OR_RETURN(const auto slots, take_slots(use, bytes));
  // No more than was asked for, whatever a slot has.
  const std::uint64_t room = slots.second * shape_.slot_bytes;
  const PoolExtent extent{use, slots.first * shape_.slot_bytes,
                          whole_pages(std::clamp<std::uint64_t>(bytes, 1, room))};
  // From here on it gives them back by itself.
  GrantedExtent granted(*this, extent, UniqueFd());
  ASSIGN_OR_RETURN(granted.memory_, make_memory(extent));
  RETURN_IF_ERROR(addresses_.lay(granted.memory_, extent.offset, extent.bytes));
  ASSIGN_OR_RETURN(SegmentGuard guard, SegmentGuard::create(granted.bytes().data(), extent.bytes));
  granted.guard_ = std::make_unique<SegmentGuard>(std::move(guard));
  return granted;
}

void PoolRegion::give_back(GrantedExtent& granted) {
  const PoolExtent& extent = granted.extent_;
  granted.guard_.reset();
  if (granted.memory_.valid()) {
    addresses_.clear(extent.offset, extent.bytes);
    // Where a client has it still, and no other session is to come, it is not taken twice.
    const bool is_gone = granted.discarded_ || !granted.handed_out_;
    granted.memory_.reset();
    if (reserve_.valid() && is_gone) {
      (void)without_exceptions([&]() -> Status {
        RETURN_IF_ERROR(check_memory(extent.bytes));
        return commit(reserve_, extent.offset, extent.bytes);
      });
    }
  }
  if (granted.counted_) {
    const std::lock_guard lock(mutex_);
    figures_.leased_bytes[extent.use] -= extent.bytes;
  }
  give_slots(extent.offset / shape_.slot_bytes, slots_of(extent));
}

}  // namespace airlock
