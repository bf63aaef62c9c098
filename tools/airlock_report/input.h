#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/status.h"
#include "runtime/stats/report.h"
#include "runtime/trace/summary.h"
#include "tools/airlock_report/bins.h"

namespace airlock::report {

/// A trace as the page shows it.
struct ReportedTrace : TraceFileSummary {
  // Over time, or over ops by their number where nothing was timed.
  Bins bins;
  // In order.
  PerValue<PassKind, PassBins> pass_bins;
  /// Of all runs: the header's, else up to the last op's end.
  std::uint64_t wall_ns() const { return header.wall_ns.value_or(busy.end_ns()); }
};

/// One file as the page shows it. A plain value.
struct Input {
  std::string file;  // as the user named it
  std::variant<SideReport, ReportedTrace> content;

  const SideReport* stats() const { return std::get_if<SideReport>(&content); }
  const ReportedTrace* trace() const { return std::get_if<ReportedTrace>(&content); }
  /// "tee_runner" or "gpu_server": that side's statistics; else "trace".
  std::string_view kind() const {
    return trace() != nullptr ? std::string_view("trace") : stats()->side;
  }
  const OpSnapshot& op(Op op) const {
    return stats() != nullptr ? stats()->ops[op] : trace()->ops[op];
  }
  const TransportSnapshot& paths() const {
    return stats() != nullptr ? stats()->transport : trace()->paths;
  }
};

/// Streams a trace; of at most `most_bins` intervals.
Result<ReportedTrace> read_trace(const std::string& path, std::size_t most_bins);
/// Reads and checks every file, told apart by their content; traces are streamed. kInvalidInput
/// names file and place.
Result<std::vector<Input>> read_inputs(const std::vector<std::string>& paths);

}  // namespace airlock::report
