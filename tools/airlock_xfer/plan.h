#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"

namespace airlock::xfer {

/// How many sizes one run may have.
inline constexpr std::size_t kMaxSizes = 1024;
/// The sizes beside the path limit are this far from it.
inline constexpr std::size_t kLimitNeighbourBytes = 4096;

/// "64 B", "4 KiB", "10.004 MiB": for readers.
std::string size_text(std::uint64_t bytes);

struct SizeRange {
  std::size_t min_bytes = 0;  // at least 1
  std::size_t max_bytes = 0;
  double factor = 2;           // used where step_bytes is 0
  std::size_t step_bytes = 0;  // 0: by factor
  std::size_t limit_bytes = 0;
};
/// The sizes of a run, ascending, each once: from min by factor or step, and limit - 4096, limit
/// and limit + 4096 where they lie within the range. kUsage for a range that is empty, does not
/// grow or has more than kMaxSizes sizes.
Result<std::vector<std::size_t>> plan_sizes(const SizeRange& range);

}  // namespace airlock::xfer
