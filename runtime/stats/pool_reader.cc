#include "runtime/stats/pool_reader.h"

#include <algorithm>
#include <vector>

namespace airlock {
namespace {

using counters_layout::Identity;
using counters_layout::Lease;
using counters_layout::Pool;

constexpr std::size_t kSpare = kCountOf<PoolUse>;

Status absurd(std::string_view what) {
  return {StatusCode::kInvalidInput, "it holds {} that cannot be", what};
}

/// One that a region grants: whole in the slots of its use, or in the spare ones.
bool is_in_slots(const PoolExtent& extent, const PoolShape& shape) {
  std::uint64_t first = 0;
  for (const PoolUse before : kValuesOf<PoolUse>) {
    if (before < extent.use) first += shape.slots[before];
  }
  const std::uint64_t begin = extent.offset / shape.slot_bytes;
  const std::uint64_t end =
      (extent.offset + extent.bytes + shape.slot_bytes - 1) / shape.slot_bytes;
  const bool is_own = begin >= first && end <= first + shape.slots[extent.use];
  const bool is_spare = begin >= shape.slot_count() - shape.spare_slots;
  return extent.offset % shape.slot_bytes == 0 && (is_own || is_spare);
}

/// What a settled file says of the pool as a whole.
bool is_consistent(const PoolFigures& figures, const PoolShape& shape) {
  const auto is_possible = [](const PoolFigures::Free& free) {
    return free.longest_run <= free.slots && (free.longest_run > 0) == (free.slots > 0);
  };
  bool sane = is_possible(figures.spare);
  std::uint64_t taken_slots = shape.slot_count() - figures.spare.slots;
  for (const PoolUse use : kValuesOf<PoolUse>) {
    sane &= is_possible(figures.own[use]);
    sane &= figures.leased_bytes[use] <= figures.high_water_bytes[use];
    sane &= figures.high_water_bytes[use] <= figures.high_water_all_bytes;
    taken_slots -= figures.own[use].slots;
  }
  return sane && figures.leased_all_bytes() <= figures.high_water_all_bytes &&
         figures.leased_all_bytes() <= taken_slots * shape.slot_bytes &&
         figures.cut_short <= figures.granted;
}

}  // namespace

Result<PoolShape> read_pool_shape(const Identity& identity) {
  const std::span slots(identity.pool_slots);
  // Before they are cut to 32 bits.
  const std::uint64_t most = std::ranges::max(slots);
  if (most > limits::kMaxPoolSlots) return absurd("a pool's count of slots");
  PoolShape shape;
  shape.slot_bytes = identity.pool_slot_bytes;
  for (const PoolUse use : kValuesOf<PoolUse>)
    shape.slots[use] = static_cast<std::uint32_t>(slots[index_of(use)]);
  shape.spare_slots = static_cast<std::uint32_t>(slots[kSpare]);
  if (shape == PoolShape{}) return shape;
  RETURN_IF_ERROR(check_shape(shape));
  return shape;
}

Result<PoolFigures> read_pool_figures(const Pool& pool, const PoolShape& shape, bool settled) {
  PoolFigures figures;
  const std::uint64_t bytes = shape.bytes();
  bool sane = pool.high_water_all_bytes <= bytes && pool.granted <= kMaxCountedEvents &&
              pool.cut_short <= kMaxCountedEvents && pool.refused <= kMaxCountedEvents;
  const auto read_free = [&](std::size_t at, std::uint64_t slots) {
    sane &= pool.free_slots[at] <= slots && pool.longest_runs[at] <= slots;
    return PoolFigures::Free{pool.free_slots[at], pool.longest_runs[at]};
  };
  for (const PoolUse use : kValuesOf<PoolUse>) {
    const std::size_t at = index_of(use);
    sane &= pool.leased_bytes[at] <= bytes && pool.high_water_bytes[at] <= bytes;
    figures.own[use] = read_free(at, shape.slots[use]);
    figures.leased_bytes[use] = pool.leased_bytes[at];
    figures.high_water_bytes[use] = pool.high_water_bytes[at];
  }
  figures.spare = read_free(kSpare, shape.spare_slots);
  figures.high_water_all_bytes = pool.high_water_all_bytes;
  figures.granted = pool.granted;
  figures.cut_short = pool.cut_short;
  figures.refused = pool.refused;
  if (!sane || (settled && !is_consistent(figures, shape))) return absurd("figures of the pool");
  return figures;
}

Result<SessionLease> read_lease(const Lease& from, const PoolShape& shape) {
  SessionLease lease;
  lease.since_ns = from.since_ns;
  for (const PoolUse use : kValuesOf<PoolUse>) {
    lease.asked[use] = from.asked_bytes[index_of(use)];
    if (lease.asked[use] > limits::kMaxPoolBytes) return absurd("a wish for a pool");
  }
  if (from.extent_count > limits::kMaxPoolExtents) return absurd("a count of extents");
  for (std::uint64_t i = 0; i < from.extent_count; ++i) {
    const auto& [use, offset, bytes] = from.extents[i];
    if (use >= kCountOf<PoolUse> || offset >= shape.bytes() || bytes > shape.bytes() - offset)
      return absurd("an extent");
    const PoolExtent extent{static_cast<PoolUse>(use), offset, bytes};
    const bool is_second = std::ranges::any_of(
        lease.extents, [&](const PoolExtent& other) { return other.use == extent.use; });
    if (is_second || !is_in_slots(extent, shape) || bytes > whole_pages(lease.asked[extent.use]))
      return absurd("an extent");
    lease.extents.push_back(extent);
  }
  RETURN_IF_ERROR(check_extents(lease.extents));
  return lease;
}

Status check_leases(std::span<const PoolExtent> extents, const PoolFigures& figures) {
  RETURN_IF_ERROR(check_extents({extents.begin(), extents.end()}));
  PoolWish sums{};
  for (const PoolExtent& extent : extents) sums[extent.use] += extent.bytes;
  for (const PoolUse use : kValuesOf<PoolUse>) {
    if (sums[use] > figures.leased_bytes[use]) return absurd("more leases than it says");
  }
  return {};
}

}  // namespace airlock
