#include "tools/airlock_report/table.h"

#include <fmt/format.h>

#include "tools/airlock_report/format.h"

namespace airlock::report {

Table::Table(std::string_view caption, const std::vector<std::string>& columns)
    : caption_(escape_html(caption)), columns_(columns) {}

void Table::cell(Flush flush, std::string_view html) {
  if (rows_ == 1) flush_.push_back(flush);
  body_ += html;
}

void Table::row(std::string_view head) {
  body_ += rows_++ == 0 ? "<tr>" : "</tr>\n<tr>";
  cell(Flush::kLeft, fmt::format("<th scope=\"row\">{}</th>", html_text(head)));
}

void Table::text(std::string_view text) { lines({std::string(text)}); }

void Table::lines(const std::vector<std::string>& lines) {
  std::string html;
  for (const std::string& line : lines)
    html += fmt::format("{}{}", html.empty() ? "" : "<br>", html_text(line));
  cell(Flush::kLeft, fmt::format("<td class=\"text\">{}</td>", html));
}

void Table::number(std::string_view key, std::uint64_t value) {
  number_as(key, value, grouped(value));
}

void Table::number_as(std::string_view key, std::uint64_t value, std::string_view shown) {
  cell(Flush::kRight, fmt::format("<td data-key=\"{}\" data-value=\"{}\">{}</td>", escape_html(key),
                                  value, escape_html(shown)));
}

void Table::derived(std::string_view shown) {
  cell(Flush::kRight, fmt::format("<td>{}</td>", escape_html(shown)));
}

std::string Table::html() const {
  std::string head;
  for (std::size_t i = 0; i < columns_.size(); ++i) {
    const bool left = i < flush_.size() && flush_[i] == Flush::kLeft;
    head += fmt::format("<th scope=\"col\"{}>{}</th>", left ? " class=\"text\"" : "",
                        escape_html(columns_[i]));
  }
  return fmt::format(
      "<div class=\"scroll\" role=\"region\" tabindex=\"0\" "
      "aria-label=\"{0}\"><table><caption>{0}</caption>\n<thead><tr>{1}</tr></"
      "thead>\n<tbody>{2}{3}</tbody></table></div>\n",
      caption_, head, body_, rows_ == 0 ? "" : "</tr>");
}

std::string Table::folded(std::string_view summary) const {
  return fmt::format("<details><summary>{}</summary>\n{}</details>\n", escape_html(summary),
                     html());
}

}  // namespace airlock::report
