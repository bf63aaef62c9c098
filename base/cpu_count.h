#pragma once

#include <cstddef>
#include <optional>

namespace airlock {

/// How many compute threads are of use to this process: the CPUs that it may run on (affinity), no
/// more than the quotas of its control groups, rounded up; at least 1.
std::size_t usable_cpu_count();
/// The same of so many CPUs and such a quota.
std::size_t usable_cpu_count(std::size_t cpus, std::optional<double> quota);

}  // namespace airlock
