#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "base/status.h"
#include "runtime/stats/report.h"
#include "tools/airlock_report/trace_summary.h"

namespace airlock::report {

/// One file as the page shows it. A plain value.
struct Input {
  std::string file;  // as the user named it
  std::variant<SideReport, TraceSummary> content;

  const SideReport* stats() const { return std::get_if<SideReport>(&content); }
  const TraceSummary* trace() const { return std::get_if<TraceSummary>(&content); }
  const OpSnapshotTable& ops() const { return stats() != nullptr ? stats()->ops : trace()->ops; }
};

inline constexpr std::size_t kMaxInputs = 32;
inline constexpr std::size_t kMaxStatsFileBytes = std::size_t{16} << 20;

enum class InputKind : std::uint8_t { kStats, kTrace };
/// What a file is, by its content. kInvalidInput, naming it, where it cannot be read or is neither.
Result<InputKind> kind_of_file(const std::string& path);

/// Reads and checks every file; traces are streamed. kInvalidInput names file and place.
Result<std::vector<Input>> read_inputs(const std::vector<std::string>& paths);

}  // namespace airlock::report
