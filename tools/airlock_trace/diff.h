#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "base/status.h"
#include "runtime/text/output_form.h"
#include "runtime/trace/summary.h"

namespace airlock::trace {

/// Two traces, op by op in their order. "Shape" is op, weights, transpose and each tensor's type
/// and extents; paths and times may differ without a word.
struct TraceDiff {
  TraceFileSummary a;
  TraceFileSummary b;
  std::uint64_t compared = 0;     // positions that both have
  std::uint64_t differing = 0;    // of those, with other shapes
  std::uint64_t other_paths = 0;  // of those with the same shapes, with another path
  /// The first position with other shapes, or that only one has: nullopt where there is none.
  std::optional<std::uint64_t> first = {};
  // What lies there; "nothing" behind the end.
  std::string first_a = {};
  std::string first_b = {};
};

Result<TraceDiff> compare(const std::string& a, const std::string& b);
/// compare() as text. What is cut is also warned of in the log.
Result<std::string> diff(const std::string& a, const std::string& b, OutputForm form);

}  // namespace airlock::trace
