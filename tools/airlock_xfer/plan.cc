#include "tools/airlock_xfer/plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "proto/limits.h"

namespace airlock::xfer {
namespace {

/// The size after `bytes`; nullopt where the range ends.
std::optional<std::size_t> next_size(const SizeRange& range, std::size_t bytes) {
  const auto from = static_cast<double>(bytes);
  const double grown = range.step_bytes != 0 ? from + static_cast<double>(range.step_bytes)
                                             : std::floor(from * range.factor);
  // Exact: sizes have at most 33 bits.
  if (grown > static_cast<double>(range.max_bytes) || bytes == range.max_bytes) return std::nullopt;
  return std::max(bytes + 1, static_cast<std::size_t>(grown));
}

Status check_range(const SizeRange& range) {
  if (range.min_bytes == 0) return {StatusCode::kUsage, "-b 0: a size is at least 1 byte"};
  if (range.max_bytes > limits::kMaxTensorBytes) {
    return {StatusCode::kUsage, "-e {}: a tensor has at most {} bytes (4 GiB)", range.max_bytes,
            limits::kMaxTensorBytes};
  }
  if (range.min_bytes > range.max_bytes) {
    return {StatusCode::kUsage, "-b {} is more than -e {}: there is no size between",
            range.min_bytes, range.max_bytes};
  }
  if (range.step_bytes == 0 && !(range.factor > 1)) {  // also NaN
    return {StatusCode::kUsage, "-f {}: the factor must be more than 1", range.factor};
  }
  return {};
}

}  // namespace

std::string size_text(std::uint64_t bytes) {
  for (const auto& [shift, unit] : {std::pair(30, "GiB"), {20, "MiB"}, {10, "KiB"}}) {
    if (bytes >> shift == 0) continue;
    const double count = std::ldexp(static_cast<double>(bytes), -shift);
    return fmt::format("{:.{}f} {}", count, count == std::floor(count) ? 0 : 3, unit);
  }
  return fmt::format("{} B", bytes);
}

Result<std::vector<std::size_t>> plan_sizes(const SizeRange& range) {
  RETURN_IF_ERROR(check_range(range));
  std::vector<std::size_t> sizes;
  for (std::optional<std::size_t> size = range.min_bytes; size; size = next_size(range, *size)) {
    if (sizes.size() == kMaxSizes) {
      return Status(StatusCode::kUsage, "more than {} sizes from {} to {}: use a larger -f or -i",
                    kMaxSizes, range.min_bytes, range.max_bytes);
    }
    sizes.push_back(*size);
  }
  const std::size_t limit = range.limit_bytes;
  for (const std::size_t size :
       {limit - std::min(limit, kLimitNeighbourBytes), limit, limit + kLimitNeighbourBytes}) {
    if (size >= range.min_bytes && size <= range.max_bytes) sizes.push_back(size);
  }
  std::ranges::sort(sizes);
  const auto repeated = std::ranges::unique(sizes);
  sizes.erase(repeated.begin(), repeated.end());
  return sizes;
}

}  // namespace airlock::xfer
