#pragma once

#include <cstdint>
#include <functional>

#include "base/output_file.h"
#include "base/status.h"
#include "runtime/trace/trace.h"
#include "tools/airlock_trace/options.h"

namespace airlock::trace {

/// Writes a whole trace, or leaves what was there: `header.records` records, of which `record_at`
/// gives each once, in order.
Status write_trace(const OutputFile& file, const TraceHeader& header,
                   const std::function<TraceRecord(std::uint64_t number)>& record_at);

Status synthesise(const Options& options, const OutputFile& file);

}  // namespace airlock::trace
