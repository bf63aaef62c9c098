#pragma once

#include <cstdint>
#include <span>

#include "base/status.h"
#include "runtime/stats/counters_file.h"

namespace airlock {

/// The parts of a counters file that are about the pool. They are believed in nothing: each gives
/// kInvalidInput where a number is out of the limits, or at odds with the others.

/// No server counts so far.
inline constexpr std::uint64_t kMaxCountedEvents = std::uint64_t{1} << 46;

/// Of no slots where there is no pool.
Result<PoolShape> read_pool_shape(const counters_layout::Identity& identity);
/// `settled`: all of it is of one moment, else each number is looked at by itself.
Result<PoolFigures> read_pool_figures(const counters_layout::Pool& pool, const PoolShape& shape,
                                      bool settled);
/// One extent of a use at most, in slots of its own or spare ones, no larger than it asked for.
Result<SessionLease> read_lease(const counters_layout::Lease& from, const PoolShape& shape);
/// All extents of one moment: none meets another, and together they are no more than is leased.
Status check_leases(std::span<const PoolExtent> extents, const PoolFigures& figures);

}  // namespace airlock
