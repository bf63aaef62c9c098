#include "tools/airlock_report/format.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <span>
#include <utility>

#include "base/safe_text.h"

namespace airlock::report {
namespace {

constexpr std::pair<char, std::string_view> kEntities[] = {
    {'&', "&amp;"}, {'<', "&lt;"}, {'>', "&gt;"}, {'"', "&quot;"}, {'\'', "&#39;"}};

/// `value` in the first unit in which it is under 1000 (or the last), with the unit's name.
std::pair<double, std::string_view> scaled(std::uint64_t value, Unit unit) {
  static constexpr std::string_view kCounts[] = {"", "k", "M", "G", "T"};
  static constexpr std::string_view kTimes[] = {"ns", "µs", "ms", "s"};
  static constexpr std::string_view kBytes[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  using Names = std::span<const std::string_view>;
  const Names names = unit == Unit::kTime    ? Names(kTimes)
                      : unit == Unit::kBytes ? Names(kBytes)
                                             : Names(kCounts);
  const double factor = unit == Unit::kBytes ? 1024 : 1000;
  auto part = static_cast<double>(value);
  std::size_t i = 0;
  for (; i + 1 < names.size() && part >= (i == 0 ? factor : 999.5); ++i) part /= factor;
  return {part, names[i]};
}

}  // namespace

std::string escape_html(std::string_view text) {
  std::string html;
  for (const char c : without_controls(text, "\uFFFD")) {
    const auto* entity = std::ranges::find(kEntities, c, &std::pair<char, std::string_view>::first);
    html += entity == std::end(kEntities) ? std::string_view(&c, 1) : entity->second;
  }
  return html;
}

std::string html_text(std::string_view text) {
  return fmt::format("<bdi>{}</bdi>", escape_html(text));
}

std::string grouped(std::uint64_t value) {
  std::string digits = std::to_string(value);
  for (std::size_t i = digits.size(); i > 3;) digits.insert(i -= 3, "\u202f");
  return digits;
}

std::string in_words(std::uint64_t value, Unit unit) {
  if (unit == Unit::kCount) return grouped(value);
  const auto [part, name] = scaled(value, unit);
  const bool whole = part == static_cast<double>(value);
  const int digits = whole || part >= 99.95 ? 0 : part >= 9.995 ? 1 : 2;
  return fmt::format("{:.{}f} {}", part, digits, name);
}

std::string tick_label(std::uint64_t value, Unit unit) {
  if (value == 0) return "0";
  const auto [part, name] = scaled(value, unit);
  return fmt::format("{:.4g}{}{}", part, name.empty() ? "" : " ", name);
}

}  // namespace airlock::report
