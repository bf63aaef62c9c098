#include "tools/airlock_report/input.h"

#include <algorithm>
#include <span>
#include <utility>

#include "base/readable_file.h"
#include "runtime/json/reader.h"

namespace airlock::report {
namespace {

/// Points of all charts over time together, so that the page stays small.
constexpr std::size_t kBinsInAll = 1024;
constexpr std::size_t kMostBins = 512;
constexpr std::size_t kMaxStatsFileBytes = std::size_t{16} << 20;

/// The statistics in a file; nullopt where it is a trace, which its first line says.
Result<std::optional<SideReport>> read_stats(const std::string& path) {
  ASSIGN_OR_RETURN(const ReadableFile file, ReadableFile::open(path));
  std::string head(kMaxTraceLineBytes + 1, '\0');
  ASSIGN_OR_RETURN(const std::size_t head_bytes,
                   file.read_some(0, std::as_writable_bytes(std::span(head))));
  head.resize(std::min(head_bytes, head.find('\n')));
  const auto first = parse_json(head, path);
  if (first.ok() && first->find("airlock_trace") != nullptr) return std::optional<SideReport>();
  if (file.size_bytes() > kMaxStatsFileBytes) {
    return Status(StatusCode::kInvalidInput,
                  "{}: no trace, and over {} bytes, too large for statistics", path,
                  kMaxStatsFileBytes);
  }
  ASSIGN_OR_RETURN(const std::string text, read_text_file(path, kMaxStatsFileBytes));
  const auto json = parse_json(text, path);
  if (!json.ok()) {
    return Status(json.status().code(), "{} (neither statistics nor a trace)",
                  json.status().message());
  }
  if (json->find("side") == nullptr) {
    return Status(StatusCode::kInvalidInput,
                  "{}: neither statistics (no 'side') nor a trace (no 'airlock_trace')", path);
  }
  ASSIGN_OR_RETURN(SideReport report, read_report(text, path));
  return std::optional(std::move(report));
}

}  // namespace

Result<ReportedTrace> read_trace(const std::string& path, std::size_t most_bins) {
  Bins by_time(most_bins);
  Bins by_number(most_bins);
  std::uint64_t number = 0;
  // Of both kinds together as many as there are intervals of time.
  const PassBins few(most_bins / 2);
  PerValue<PassKind, PassBins> passes{{few, few}};
  ASSIGN_OR_RETURN(TraceFileSummary summary,
                   summarise_trace(
                       path,
                       [&](const TraceRecord& record) {
                         by_time.add(record.start_ns, record.end_ns(), record);
                         by_number.add(number, number, record);
                         ++number;
                       },
                       [&](const TracePass& pass) { passes[pass.kind].add(pass.sums); }));
  const bool timed = summary.has_times();
  return ReportedTrace{std::move(summary), std::move(timed ? by_time : by_number),
                       std::move(passes)};
}

Result<std::vector<Input>> read_inputs(const std::vector<std::string>& paths) {
  std::vector<std::optional<SideReport>> stats;
  for (const std::string& path : paths) {
    ASSIGN_OR_RETURN(stats.emplace_back(), read_stats(path));
  }
  const auto traces = static_cast<std::size_t>(
      std::ranges::count_if(stats, [](const auto& report) { return !report; }));
  const std::size_t most_bins = std::min(kMostBins, kBinsInAll / std::max<std::size_t>(traces, 1));
  std::vector<Input> inputs;
  for (std::size_t i = 0; i < paths.size(); ++i) {
    if (stats[i]) {
      inputs.push_back({paths[i], std::move(*stats[i])});
    } else {
      ASSIGN_OR_RETURN(ReportedTrace trace, read_trace(paths[i], most_bins));
      inputs.push_back({paths[i], std::move(trace)});
    }
  }
  return inputs;
}

}  // namespace airlock::report
