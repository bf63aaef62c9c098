#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace airlock::report {

/// An HTML table in a box in which it scrolls if it is wide. Cells that hold a number of an input
/// carry it exactly: data-key="inputs.0.ops.matmul.wire_ns" data-value="16303145". One thread.
class Table {
 public:
  /// `caption` and `columns` are plain text; the first column heads its row.
  Table(std::string_view caption, const std::vector<std::string>& columns);

  /// Begins a row with its head: plain text, from anywhere.
  void row(std::string_view head);
  /// A column that holds text in its first row is flush left.
  void text(std::string_view text);
  /// Plain texts, one below the other.
  void lines(const std::vector<std::string>& lines);
  void number(std::string_view key, std::uint64_t value);
  /// Each number that is a member of `stats`, a struct of counters, under its own key.
  void numbers(const std::string& prefix, const auto& stats) {
    stats.visit(
        [&](std::string_view key, const auto& member) {
          if constexpr (std::is_same_v<std::remove_cvref_t<decltype(member)>, std::uint64_t>)
            number(prefix + std::string(key), member);
        },
        stats);
  }
  /// As number(), shown in another form ("22.2 MiB").
  void number_as(std::string_view key, std::uint64_t value, std::string_view shown);
  /// A number that is no input's own (a share, a sum).
  void derived(std::string_view shown);

  std::size_t rows() const { return rows_; }
  std::string html() const;
  /// The table folded away under `summary`.
  std::string folded(std::string_view summary) const;

 private:
  enum class Flush : std::uint8_t { kLeft, kRight };
  void cell(Flush flush, std::string_view html);

  std::string caption_;  // HTML
  std::vector<std::string> columns_;
  std::vector<Flush> flush_;  // of the first row's cells
  std::string body_;
  std::size_t rows_ = 0;
};

}  // namespace airlock::report
