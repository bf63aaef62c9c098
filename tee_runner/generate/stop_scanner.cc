#include "tee_runner/generate/stop_scanner.h"

#include <algorithm>
#include <utility>

namespace airlock {
namespace {

/// Bytes at the end of `text` that are the beginning of a character and no whole one.
std::size_t incomplete_bytes(std::string_view text) {
  constexpr std::size_t kMostBytes = 4;
  for (std::size_t back = 1; back < kMostBytes && back <= text.size(); ++back) {
    const auto byte = static_cast<unsigned char>(text[text.size() - back]);
    if ((byte & 0xc0U) == 0x80U) continue;  // within a character
    const std::size_t bytes = byte >= 0xf0U ? 4 : byte >= 0xe0U ? 3 : byte >= 0xc0U ? 2 : 1;
    return bytes > back ? back : 0;
  }
  return 0;
}

}  // namespace

Result<StopScanner> StopScanner::create(std::vector<std::string> stops) {
  if (stops.size() > kMaxStopStrings) {
    return Status(StatusCode::kInvalidInput, "{} stop strings, expected at most {}", stops.size(),
                  kMaxStopStrings);
  }
  for (const std::string& stop : stops) {
    if (stop.empty() || stop.size() > kMaxStopBytes) {
      return Status(StatusCode::kInvalidInput, "a stop string of {} bytes, expected 1 to {}",
                    stop.size(), kMaxStopBytes);
    }
  }
  return StopScanner(std::move(stops));
}

StopScanner::StopScanner(std::vector<std::string> stops) : stops_(std::move(stops)) {
  for (const std::string& stop : stops_) begins_[static_cast<unsigned char>(stop[0])] = true;
}

std::string StopScanner::feed(std::string_view piece) {
  if (stopped_) return {};
  held_ += piece;
  const std::string_view text = held_;
  std::size_t end = text.size();
  for (std::size_t at = 0; at < end; ++at) {
    if (!begins_[static_cast<unsigned char>(text[at])]) continue;
    const std::string_view rest = text.substr(at);
    const bool found = std::ranges::any_of(
        stops_, [rest](const std::string& stop) { return rest.starts_with(stop); });
    const bool may_come = std::ranges::any_of(
        stops_, [rest](const std::string& stop) { return stop.starts_with(rest); });
    if (found) stopped_ = true;
    if (found || may_come) end = at;
  }
  if (end == text.size()) end -= incomplete_bytes(text);
  std::string out = held_.substr(0, end);
  held_.erase(0, stopped_ ? std::string::npos : end);
  return out;
}

std::string StopScanner::finish() {
  if (stopped_) return {};
  // What was held back for a longer stop string, which did not come, may have a shorter one in it.
  std::size_t end = held_.size();
  for (const std::string& stop : stops_) end = std::min(end, held_.find(stop));
  stopped_ = end < held_.size();
  std::string out = held_.substr(0, end);
  held_.clear();
  return out;
}

}  // namespace airlock
