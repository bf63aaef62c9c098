#include "tools/airlock_trace/text.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <limits>

namespace airlock::trace {

std::string milliseconds(std::uint64_t ns) {
  const std::uint64_t us = ns / 1000 + (ns % 1000 >= 500 ? 1 : 0);
  return fmt::format("{}.{:03}", us / 1000, us % 1000);
}

std::string size_text(std::uint64_t bytes) {
  static constexpr std::array kUnits = {"B", "KiB", "MiB", "GiB", "TiB"};
  if (bytes < 1024) return fmt::format("{} B", bytes);
  auto value = static_cast<double>(bytes);
  std::size_t unit = 0;
  while (value >= 1024 && unit + 1 < kUnits.size()) {
    value /= 1024;
    ++unit;
  }
  return fmt::format("{:.2f} {}", value, kUnits[unit]);
}

std::string percent(std::uint64_t part, std::uint64_t whole) {
  if (whole == 0) return "-";
  return fmt::format("{:.1f} %", 100.0 * static_cast<double>(part) / static_cast<double>(whole));
}

std::string ratio(std::uint64_t a, std::uint64_t b) {
  if (a == 0) return "-";
  return fmt::format("{:.3f}", static_cast<double>(b) / static_cast<double>(a));
}

std::string shape_text(const Shape& shape) {
  return shape.rank() == 0 ? "-" : fmt::format("{}", fmt::join(shape.extents(), "x"));
}

std::string desc_text(const TensorDesc& desc) {
  return fmt::format("{}[{}]", name_of(desc.dtype), shape_text(desc.shape));
}

std::string weight_text(const WeightId& weight) {
  return fmt::format("{}.{}", weight.layer, name_of(weight.kind));
}

std::string_view path_text(const std::optional<Path>& path) {
  if (!path) return "-";
  return *path == Path::kRing ? "ring" : "zmq";
}

std::string_view transpose_text(Transpose transpose) {
  if (transpose == Transpose::kA) return "a";
  return transpose == Transpose::kB ? "b" : "none";
}

std::uint64_t add_capped(std::uint64_t a, std::uint64_t b) {
  constexpr std::uint64_t kMost = std::numeric_limits<std::uint64_t>::max();
  return b > kMost - a ? kMost : a + b;
}

std::string markdown_table(const std::vector<std::string>& head,
                           const std::vector<std::vector<std::string>>& rows, std::size_t left) {
  std::vector<std::size_t> widths;
  for (const std::string& cell : head) widths.push_back(std::max<std::size_t>(cell.size(), 3));
  for (const auto& row : rows) {
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string text;
  const auto add_row = [&](const std::vector<std::string>& row) {
    text += '|';
    for (std::size_t i = 0; i < row.size(); ++i) {
      text += i < left ? fmt::format(" {:<{}} |", row[i], widths[i])
                       : fmt::format(" {:>{}} |", row[i], widths[i]);
    }
    text += '\n';
  };
  add_row(head);
  text += '|';
  for (std::size_t i = 0; i < widths.size(); ++i) {
    text += fmt::format(" {}{} |", std::string(widths[i] - 1, '-'), i < left ? '-' : ':');
  }
  text += '\n';
  for (const auto& row : rows) add_row(row);
  return text;
}

std::string csv_row(const std::vector<std::string>& cells) {
  std::string text;
  for (const std::string& cell : cells) {
    if (&cell != &cells.front()) text += ',';
    if (cell.find_first_of(",\"\r\n") == std::string::npos) {
      text += cell;
      continue;
    }
    text += '"';
    for (const char c : cell) text += c == '"' ? std::string("\"\"") : std::string(1, c);
    text += '"';
  }
  return text + '\n';
}

}  // namespace airlock::trace
