#include "base/available_memory.h"

#include <algorithm>
#include <fstream>
#include <limits>

#include "base/cgroup.h"

namespace airlock {

std::optional<std::uint64_t> memory_available_bytes(const std::string& root) {
  std::optional<std::uint64_t> left = read_cgroup_limits(root).memory_left_bytes;
  std::ifstream file(root + "/proc/meminfo");
  std::string name;
  std::uint64_t kib = 0;
  // "MemAvailable:   123456 kB"; a few lines have no unit.
  for (std::string line; file >> name >> kib; std::getline(file, line)) {
    if (name != "MemAvailable:" || kib > std::numeric_limits<std::uint64_t>::max() / 1024) continue;
    return std::min(left.value_or(kib * 1024), kib * 1024);
  }
  return left;
}

}  // namespace airlock
