#include "proto/path.h"

#include <algorithm>

namespace airlock {

std::vector<Path> choose_paths(const PathPolicy& policy,
                               std::span<const std::size_t> tensor_bytes) {
  std::vector<Path> paths(tensor_bytes.size(), Path::kZmq);
  if (!policy.has_ring) return paths;
  std::size_t slots = 0;
  for (std::size_t i = 0; i < tensor_bytes.size(); ++i) {
    if (tensor_bytes[i] >= policy.limit_bytes || slots + 1 > policy.slot_count / 2) continue;
    paths[i] = Path::kRing;
    ++slots;
  }
  return paths;
}

Path header_path(const PathPolicy& policy) { return policy.has_ring ? Path::kRing : Path::kZmq; }

std::size_t slots_needed(const PathPolicy& policy, std::span<const Path> paths) {
  if (!policy.has_ring) return 0;
  const auto ring = static_cast<std::size_t>(std::count(paths.begin(), paths.end(), Path::kRing));
  return std::max<std::size_t>(1, ring);
}

}  // namespace airlock
