#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace airlock {

/// One value of a table, as programs read it (csv, JSON) and as people do (Markdown, aligned
/// text). The constructors are implicit: a row is written as a list of values.
class Cell {
 public:
  /// Nothing: empty in csv, null in JSON, "-" for people.
  Cell() = default;
  Cell(std::string text) : kind_(Kind::kText), exact_(text), shown_(std::move(text)) {}
  Cell(std::string_view text) : Cell(std::string(text)) {}
  Cell(const char* text) : Cell(std::string(text)) {}
  template <std::integral T>
  Cell(T number) : Cell(Kind::kNumber, std::to_string(number)) {}
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

  const std::string& exact() const { return exact_; }
  const std::string& shown() const { return shown_; }
  /// As a value of nlohmann's Json; null for a number that JSON cannot hold.
  template <typename Json>
  Json json() const {
    if (kind_ == Kind::kText) return exact_;
    const Json value = Json::parse(exact_, nullptr, false);
    return value.is_discarded() ? Json() : value;
  }

 private:
  enum class Kind : std::uint8_t { kNothing, kText, kNumber };
  Cell(Kind kind, std::string text) : kind_(kind), exact_(text), shown_(std::move(text)) {}

  Kind kind_ = Kind::kNothing;
  std::string exact_;
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
  /// An array of objects, of nlohmann's Json.
  template <typename Json>
  Json json() const {
    Json array = Json::array();
    for (const Cells& row : rows_) {
      Json object = Json::object();
      for (std::size_t i = 0; i < row.size(); ++i) object[key(i)] = row[i].json<Json>();
      array.push_back(std::move(object));
    }
    return array;
  }

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
