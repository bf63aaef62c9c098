#pragma once

#include <array>
#include <string>
#include <string_view>

#include "base/status.h"
#include "runtime/trace/trace.h"
#include "tools/airlock_trace/options.h"

namespace airlock::trace {

/// Columns of the CSV; docs/INTERFACE.md says what is in each.
inline constexpr std::array<std::string_view, 22> kCsvColumns = {
    "seq",        "run",       "op",           "layer",         "weights",     "transpose",
    "inputs",     "outputs",   "input_sha256", "output_sha256", "input_bytes", "output_bytes",
    "ring_bytes", "zmq_bytes", "path",         "slots",         "start_ns",    "total_ns",
    "tee_ns",     "wire_ns",   "queue_ns",     "server_ns"};
std::string csv_record(const TraceRecord& record);

/// Running totals of the records so far.
struct RunningTotals {
  std::uint64_t ops = 0;
  std::uint64_t ring_bytes = 0;
  std::uint64_t zmq_bytes = 0;
  std::uint64_t total_ns = 0;
  std::uint64_t tee_ns = 0;
  std::uint64_t wire_ns = 0;
  std::uint64_t queue_ns = 0;
  std::uint64_t server_ns = 0;
  void add(const TraceRecord& record);
};
/// The record's line with what a reader would have to add up: decode_trace_record() still reads it.
std::string jsonl_record(const TraceRecord& record, const RunningTotals& so_far);

/// Writes FILE as `format`, record by record; a trace that was cut off is exported up to there,
/// with a warning in the log.
Status export_trace(const std::string& file, ExportFormat format, const std::string& output);

}  // namespace airlock::trace
