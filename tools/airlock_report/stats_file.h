#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/status.h"
#include "runtime/json/json.h"
#include "runtime/stats/report.h"

namespace airlock::report {

/// Greatest value of a counter in a file: as nanoseconds two years, as bytes 64 PiB. Sums over
/// ops, paths and files then fit.
inline constexpr std::uint64_t kMaxCounter = std::uint64_t{1} << 56;
/// Of one bucket of a histogram.
inline constexpr std::uint64_t kMaxBucketCount = std::uint64_t{1} << 40;
inline constexpr std::size_t kMaxConfigEntries = 64;
inline constexpr std::size_t kMaxTextBytes = 4096;
inline constexpr std::size_t kMaxSessions = 4096;

/// What --stats-json wrote (docs/STATS.md), read back. The file is untrusted: kInvalidInput,
/// beginning with `source`, names the first key that is missing or does not fit, percentiles that
/// are not those of their buckets included. Unknown keys are ignored.
Result<SideReport> read_stats(const Json& json, std::string_view source);

}  // namespace airlock::report
