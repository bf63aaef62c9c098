#pragma once

#include <functional>
#include <optional>
#include <string>

#include "base/status.h"
#include "runtime/trace/trace.h"
#include "tools/airlock_trace/options.h"

namespace airlock::trace {

/// Gives the next record, or nullopt at the end.
using RecordSource = std::function<std::optional<TraceRecord>()>;

/// Writes a whole trace, or leaves what was there; `header.records` is how many `next` will give.
/// "-" is stdout.
Status write_trace(const std::string& path, const TraceHeader& header, const RecordSource& next);

Status synthesise(const Options& options);

}  // namespace airlock::trace
