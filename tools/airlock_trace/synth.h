#pragma once

#include <functional>
#include <string>
#include <vector>

#include "base/status.h"
#include "runtime/model/prefill_plan.h"
#include "runtime/trace/trace.h"
#include "tools/airlock_trace/options.h"

namespace airlock::trace {

inline constexpr std::uint64_t kMaxPlannedOps = std::uint64_t{1} << 20;

/// plan_prefill() for a config that nobody vouches for: kInvalidInput, naming the op, where an op
/// is over the limits of the wire, kResourceExhausted where there are more than kMaxPlannedOps.
Result<std::vector<PlannedOp>> checked_plan(const ModelDims& dims, const PrefillShape& shape);

/// Gives the next record, or nullopt at the end.
using RecordSource = std::function<std::optional<TraceRecord>()>;

/// Writes a whole trace; `header.records` is how many `next` will give. "-" is stdout.
Status write_trace(const std::string& path, const TraceHeader& header, const RecordSource& next);

Status synthesise(const Options& options);

}  // namespace airlock::trace
