#include "runtime/text/table.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/check.h"
#include "base/safe_text.h"
#include "runtime/text/figures.h"

namespace airlock {

std::string Cell::harmless(std::string_view text) { return without_controls(text, "?"); }

Cell::Cell(double number) : value_(number), shown_(fmt::format("{}", number)) {}

Cell Cell::real(double value, int digits) {
  Cell cell;
  cell.value_ = JsonFixed{value, digits};
  cell.shown_ = fmt::format("{:.{}f}", value, digits);
  return cell;
}

Cell Cell::ms(std::uint64_t ns, int digits) { return Cell(ns).shown_as(ms_text(ns, digits)); }

Cell Cell::size(std::uint64_t bytes) { return Cell(bytes).shown_as(size_text(bytes)); }

std::string Cell::csv() const {
  return std::visit(
      [](const auto& value) -> std::string {
        using T = std::decay_t<decltype(value)>;
        if constexpr (std::is_same_v<T, std::monostate>) {
          return {};
        } else if constexpr (std::is_same_v<T, JsonFixed>) {
          return fmt::format("{:.{}f}", value.value, value.digits);
        } else {
          return fmt::format("{}", value);
        }
      },
      value_);
}

void Cell::add_to(JsonObject& object, std::string_view key) const {
  std::visit(
      [&](const auto& value) {
        if constexpr (std::is_same_v<std::decay_t<decltype(value)>, std::monostate>) {
          object.add(key, std::optional<bool>());
        } else {
          object.add(key, value);
        }
      },
      value_);
}

std::string csv_line(const Cells& cells) {
  std::string line;
  for (const Cell& cell : cells) {
    if (&cell != &cells.front()) line += ',';
    const std::string text = cell.csv();
    if (text.find_first_of(",\"\r\n") == std::string::npos) {
      line += text;
      continue;
    }
    line += '"';
    for (const char c : text) line.append(c == '"' ? 2 : 1, c);
    line += '"';
  }
  return line + '\n';
}

Column left(std::string title, std::string key, std::size_t width) {
  Column column(std::move(title), std::move(key), width);
  column.align = Align::kLeft;
  return column;
}

void Table::add(Cells row) {
  CHECK(row.size() == columns_.size());
  rows_.push_back(std::move(row));
}

Cells Table::titles() const {
  Cells row;
  for (const Column& column : columns_) row.emplace_back(column.title);
  return row;
}

Table::Widths Table::widths(std::size_t least) const {
  Widths widths;
  for (std::size_t i = 0; i < columns_.size(); ++i) {
    widths.push_back(std::max({columns_[i].title.size(), columns_[i].width, least}));
    for (const Cells& row : rows_) widths[i] = std::max(widths[i], row[i].shown().size());
  }
  return widths;
}

std::string Table::padded(const Cells& row, std::size_t column, const Widths& widths) const {
  const std::string& text = row[column].shown();
  return columns_[column].align == Align::kLeft ? fmt::format("{:<{}}", text, widths[column])
                                                : fmt::format("{:>{}}", text, widths[column]);
}

std::string Table::aligned() const {
  const Widths all = widths(0);
  std::string text;
  const auto add_line = [&](const Cells& row) {
    std::string line;
    for (std::size_t i = 0; i < row.size(); ++i) {
      if (!columns_[i].title.empty()) line += padded(row, i, all) + "  ";
    }
    line.erase(line.find_last_not_of(' ') + 1);
    text += line + '\n';
  };
  add_line(titles());
  for (const Cells& row : rows_) add_line(row);
  return text;
}

std::string Table::markdown_row(const Cells& row, const Widths& widths) const {
  std::string line = "|";
  for (std::size_t i = 0; i < row.size(); ++i) {
    if (columns_[i].title.empty()) continue;
    const std::string text = padded(row, i, widths);
    line += ' ' + text + (text.empty() ? "|" : " |");
  }
  return line + '\n';
}

std::string Table::markdown_head(const Widths& widths) const {
  std::string rule = "|";
  for (std::size_t i = 0; i < widths.size(); ++i) {
    if (columns_[i].title.empty()) continue;
    const bool left = columns_[i].align == Align::kLeft;
    const std::string dashes(widths[i] == 0 ? (left ? 2 : 3) : widths[i] - 1, '-');
    rule += fmt::format(" {}{} |", dashes, left ? '-' : ':');
  }
  return markdown_row(titles(), widths) + rule + '\n';
}

std::string Table::markdown(Padding padding) const {
  const Widths all = padding == Padding::kNone ? Widths(columns_.size()) : widths(kLeastWidth);
  std::string text = markdown_head(all);
  for (const Cells& row : rows_) text += markdown_row(row, all);
  return text;
}

std::string Table::csv_head() const {
  Cells keys;
  for (std::size_t i = 0; i < columns_.size(); ++i) keys.emplace_back(key(i));
  return csv_line(keys);
}

std::vector<JsonObject> Table::json() const {
  std::vector<JsonObject> objects;
  for (const Cells& row : rows_) {
    JsonObject& object = objects.emplace_back();
    for (std::size_t i = 0; i < row.size(); ++i) row[i].add_to(object, key(i));
  }
  return objects;
}

std::string Table::csv() const {
  std::string text = csv_head();
  for (const Cells& row : rows_) text += csv_line(row);
  return text;
}

}  // namespace airlock
