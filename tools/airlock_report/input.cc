#include "tools/airlock_report/input.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <utility>

#include "base/unique_fd.h"
#include "runtime/json/reader.h"

namespace airlock::report {
namespace {

/// Points of all charts over time together, so that the page stays small.
constexpr std::size_t kBinsInAll = 1024;
constexpr std::size_t kMostBins = 512;

Status file_error(std::string_view what, const std::string& path, int error) {
  return {StatusCode::kInvalidInput, "cannot {} {}: {}", what, path,
          std::generic_category().message(error)};
}

/// At most `most` bytes from the beginning.
Result<std::string> read_beginning(const std::string& path, std::size_t most) {
  // Without waiting: a fifo without a writer would be waited for forever.
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK));
  if (!fd.valid()) return file_error("open", path, errno);
  struct stat info {};
  if (::fstat(fd.get(), &info) != 0) return file_error("open", path, errno);
  if (!S_ISREG(info.st_mode))
    return Status(StatusCode::kInvalidInput, "{} is no regular file", path);
  std::string text;
  for (;;) {
    constexpr std::size_t kStep = std::size_t{256} << 10;
    const std::size_t kept = text.size();
    const std::size_t step = std::min(kStep, most - kept);
    if (step == 0) return text;
    text.resize(kept + step);
    const ssize_t count = ::read(fd.get(), text.data() + kept, step);
    text.resize(kept + static_cast<std::size_t>(std::max<ssize_t>(count, 0)));
    if (count < 0 && errno != EINTR) return file_error("read", path, errno);
    if (count == 0) return text;
  }
}

Result<std::string> read_whole(const std::string& path) {
  ASSIGN_OR_RETURN(std::string text, read_beginning(path, kMaxStatsFileBytes + 1));
  if (text.size() > kMaxStatsFileBytes) {
    return Status(StatusCode::kInvalidInput,
                  "{}: no trace, and over {} bytes, too large for statistics", path,
                  kMaxStatsFileBytes);
  }
  return text;
}

}  // namespace

Result<InputKind> kind_of_file(const std::string& path) {
  ASSIGN_OR_RETURN(const std::string head, read_beginning(path, kMaxTraceLineBytes + 1));
  const auto first = parse_json(std::string_view(head).substr(0, head.find('\n')), path);
  if (first.ok() && first->find("airlock_trace") != nullptr) return InputKind::kTrace;
  ASSIGN_OR_RETURN(const std::string text, read_whole(path));
  const auto json = parse_json(text, path);
  if (!json.ok()) {
    return Status(json.status().code(),
                  fmt::format("{} (neither statistics nor a trace)", json.status().message()));
  }
  if (json->find("side") != nullptr) return InputKind::kStats;
  return Status(StatusCode::kInvalidInput,
                "{}: neither statistics (no 'side') nor a trace (no 'airlock_trace')", path);
}

Result<ReportedTrace> read_trace(const std::string& path, std::size_t most_bins) {
  Bins by_time(most_bins);
  Bins by_number(most_bins);
  std::uint64_t number = 0;
  ASSIGN_OR_RETURN(TraceFileSummary summary, summarise_trace(path, [&](const TraceRecord& record) {
                     by_time.add(record.start_ns, record.end_ns(), record);
                     by_number.add(number, number, record);
                     ++number;
                   }));
  const bool timed = summary.has_times();
  return ReportedTrace(std::move(summary), std::move(timed ? by_time : by_number));
}

Result<std::vector<Input>> read_inputs(const std::vector<std::string>& paths) {
  std::vector<InputKind> kinds;
  for (const std::string& path : paths) {
    ASSIGN_OR_RETURN(const InputKind kind, kind_of_file(path));
    kinds.push_back(kind);
  }
  const auto traces = static_cast<std::size_t>(std::ranges::count(kinds, InputKind::kTrace));
  const std::size_t most_bins = std::min(kMostBins, kBinsInAll / std::max<std::size_t>(traces, 1));

  std::vector<Input> inputs;
  for (std::size_t i = 0; i < paths.size(); ++i) {
    if (kinds[i] == InputKind::kTrace) {
      ASSIGN_OR_RETURN(ReportedTrace trace, read_trace(paths[i], most_bins));
      inputs.push_back({paths[i], std::move(trace)});
    } else {
      ASSIGN_OR_RETURN(const std::string text, read_whole(paths[i]));
      ASSIGN_OR_RETURN(SideReport report, read_report(text, paths[i]));
      inputs.push_back({paths[i], std::move(report)});
    }
  }
  return inputs;
}

}  // namespace airlock::report
