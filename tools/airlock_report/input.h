#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "base/status.h"
#include "runtime/stats/report.h"
#include "runtime/trace/summary.h"
#include "tools/airlock_report/bins.h"

namespace airlock::report {

/// A trace as the page shows it.
struct ReportedTrace : TraceFileSummary {
  ReportedTrace(TraceFileSummary summary, Bins all_bins)
      : TraceFileSummary(std::move(summary)), bins(std::move(all_bins)) {}
  // Over time, or over ops by their number where nothing was timed.
  Bins bins;
  /// Of all runs: the header's, else up to the last op's end.
  std::uint64_t wall_ns() const { return header.wall_ns.value_or(busy.end_ns()); }
};

/// One file as the page shows it. A plain value.
struct Input {
  std::string file;  // as the user named it
  std::variant<SideReport, ReportedTrace> content;

  const SideReport* stats() const { return std::get_if<SideReport>(&content); }
  const ReportedTrace* trace() const { return std::get_if<ReportedTrace>(&content); }
  const OpSnapshot& op(Op op) const {
    if (stats() != nullptr) return stats()->ops[op];
    return trace()->ops[op];
  }
  const TransportSnapshot& paths() const {
    return stats() != nullptr ? stats()->transport : trace()->paths;
  }
};

inline constexpr std::size_t kMaxInputs = 32;
inline constexpr std::size_t kMaxStatsFileBytes = std::size_t{16} << 20;

enum class InputKind : std::uint8_t { kStats, kTrace };
/// What a file is, by its content. kInvalidInput, naming it, where it cannot be read or is neither.
Result<InputKind> kind_of_file(const std::string& path);

/// Streams a trace; of at most `most_bins` intervals.
Result<ReportedTrace> read_trace(const std::string& path, std::size_t most_bins);
/// Reads and checks every file; traces are streamed. kInvalidInput names file and place.
Result<std::vector<Input>> read_inputs(const std::vector<std::string>& paths);

}  // namespace airlock::report
