#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "runtime/json/writer.h"

namespace airlock {

/// One value of a table, as programs read it (csv, JSON) and as people do (Markdown, aligned
/// text). The constructors are implicit: a row is written as a list of values.
class Cell {
 public:
  /// Nothing: empty in csv, null in JSON, "-" for people.
  Cell() = default;
  /// Programs read it as it is; what people see drives no terminal, whoever wrote it.
  template <std::convertible_to<std::string_view> T>
  Cell(const T& text) : value_(std::string(text)), shown_(harmless(text)) {}
  template <std::integral T>
  Cell(T number) : value_(Integer<T>(number)), shown_(std::to_string(number)) {}
  /// With as many digits as it takes to read the same number back.
  Cell(double number);
  template <typename T>
  Cell(const std::optional<T>& value) : Cell(value ? Cell(*value) : Cell()) {}

  /// The same value; people see `shown`.
  Cell shown_as(std::string shown) && {
    shown_ = std::move(shown);
    return std::move(*this);
  }
  /// With so many digits after the point for everybody.
  static Cell real(double value, int digits);
  /// Nanoseconds, which people see as milliseconds.
  static Cell ms(std::uint64_t ns, int digits = 3);
  /// Bytes, which people see as size_text() writes them.
  static Cell size(std::uint64_t bytes);

  const std::string& shown() const { return shown_; }
  std::string csv() const;
  void add_to(JsonObject& object, std::string_view key) const;

 private:
  template <typename T>
  using Integer = std::conditional_t<std::is_signed_v<T>, std::int64_t, std::uint64_t>;
  static std::string harmless(std::string_view text);

  std::variant<std::monostate, std::string, std::int64_t, std::uint64_t, double, JsonFixed> value_;
  std::string shown_ = "-";
};

/// A row, or a part of one.
using Cells = std::vector<Cell>;

/// One line of csv (RFC 4180, but with a plain newline).
std::string csv_line(const Cells& cells);

enum class Align : std::uint8_t { kLeft, kRight };

/// To the right, as figures are; left() makes the others.
struct Column {
  Column(const char* words) : Column(words, {}) {}
  Column(std::string words, std::string name, std::size_t least = 0)
      : title(std::move(words)), key(std::move(name)), width(least) {}

  // For people, who do not see a column without one.
  std::string title;
  // For csv and JSON; empty: the title.
  std::string key;
  // Characters that it has at least in Markdown: for rows that are written one by one.
  std::size_t width = 0;
  Align align = Align::kRight;
};
Column left(std::string title, std::string key = {}, std::size_t width = 0);

/// Rows under named columns, in each form in which a program prints them. One thread.
class Table {
 public:
  explicit Table(std::vector<Column> columns) : columns_(std::move(columns)) {}

  /// `row` has a cell for each column (CHECKed).
  void add(Cells row);
  bool empty() const { return rows_.empty(); }
  const std::vector<Cells>& rows() const { return rows_; }

  /// Columns two spaces apart, for a terminal.
  std::string aligned() const;
  /// kPadded lines the columns up, for readers of the text itself.
  enum class Padding : std::uint8_t { kPadded, kNone };
  std::string markdown(Padding padding = Padding::kPadded) const;
  std::string csv() const;
  /// Each row as an object.
  std::vector<JsonObject> json() const;

  /// The lines of a table whose rows come over time: its columns are as wide as they say.
  std::string markdown_head() const { return markdown_head(widths(kLeastWidth)); }
  std::string markdown_row(const Cells& row) const {
    return markdown_row(row, widths(kLeastWidth));
  }
  std::string csv_head() const;

 private:
  using Widths = std::vector<std::size_t>;
  // Of a rule's dashes in Markdown.
  static constexpr std::size_t kLeastWidth = 3;
  const std::string& key(std::size_t column) const {
    return columns_[column].key.empty() ? columns_[column].title : columns_[column].key;
  }
  Cells titles() const;
  Widths widths(std::size_t least) const;
  std::string markdown_head(const Widths& widths) const;
  std::string markdown_row(const Cells& row, const Widths& widths) const;
  std::string padded(const Cells& row, std::size_t column, const Widths& widths) const;

  std::vector<Column> columns_;
  std::vector<Cells> rows_;
};

}  // namespace airlock
