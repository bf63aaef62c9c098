#include "base/cpu_count.h"

#include <sched.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <thread>

#include "base/cgroup.h"

namespace airlock {

namespace {

struct FreeSet {
  void operator()(cpu_set_t* set) const { CPU_FREE(set); }
};

/// The CPUs that the calling thread may run on.
std::size_t affinity_count() {
  // The system refuses a set that is smaller than its own.
  for (int most = 1024; most <= 1 << 20; most *= 2) {
    const std::unique_ptr<cpu_set_t, FreeSet> set(CPU_ALLOC(most));
    const std::size_t bytes = CPU_ALLOC_SIZE(most);
    if (set != nullptr && ::sched_getaffinity(0, bytes, set.get()) == 0)
      return static_cast<std::size_t>(CPU_COUNT_S(bytes, set.get()));
  }
  return std::thread::hardware_concurrency();
}

}  // namespace

std::size_t usable_cpu_count(std::size_t cpus, std::optional<double> quota) {
  const std::size_t most = std::max<std::size_t>(cpus, 1);
  if (!quota || *quota >= static_cast<double>(most)) return most;
  return std::max<std::size_t>(static_cast<std::size_t>(std::ceil(*quota)), 1);
}

std::size_t usable_cpu_count() {
  return usable_cpu_count(affinity_count(), read_cgroup_limits().cpus);
}

}  // namespace airlock
