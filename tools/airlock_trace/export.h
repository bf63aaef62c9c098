#pragma once

#include <string>
#include <utility>
#include <vector>

#include "base/status.h"
#include "runtime/text/table.h"
#include "runtime/trace/summary.h"
#include "tools/airlock_trace/options.h"

namespace airlock::trace {

/// A row of the CSV: each column's key and cell; docs/INTERFACE.md says what is in each.
std::vector<std::pair<std::string, Cell>> csv_record(const TraceRecord& record);

/// The record's line with what a reader would have to add up: decode_trace_record() still reads it.
/// `so_far` is the sum of the records up to this one.
std::string jsonl_record(const TraceRecord& record, const TraceSummary& so_far);

/// Writes FILE as `format`, record by record; a trace that was cut off is exported up to there,
/// with a warning in the log.
Status export_trace(const std::string& file, ExportFormat format, const std::string& output);

}  // namespace airlock::trace
