#include "tools/airlock_xfer/table.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "runtime/json/writer.h"
#include "runtime/text/table.h"
#include "tools/airlock_xfer/plan.h"

namespace airlock::xfer {
namespace {

constexpr int kSchemaVersion = 1;

const std::vector<Column>& columns() {
  static const std::vector<Column> kColumns = {
      {"bytes", "", 10},           left("path", "", 4),
      left("taken", "", 5),        {"iterations", "", 10},
      {"p50 us", "p50_us", 10},    {"p90 us", "p90_us", 10},
      {"p99 us", "p99_us", 10},    {"max us", "max_us", 10},
      {"GB/s", "gb_per_s", 7},     {"x memcpy", "memcpy_ratio", 9},
      {"#wrong", "wrong_bytes", 6}};
  return kColumns;
}

/// Three digits after the point where they mean something.
Cell us(double ns) { return Cell::real(ns / 1e3, ns < 1e6 ? 3 : 1); }

Cells cells_of(const Row& row) {
  Cells cells = {row.bytes, path_name(row.asked)};
  if (row.measured.has_value()) {
    const Measured& m = *row.measured;
    cells.insert(cells.end(),
                 {m.taken, m.iterations, us(m.p50_ns), us(m.p90_ns), us(m.p99_ns), us(m.max_ns),
                  Cell::real(row.gb_per_s(), 3), Cell::real(m.memcpy_ratio(), 2), m.wrong_bytes});
  }
  cells.resize(columns().size(), "n/a");
  return cells;
}

struct Summary {
  // The row of each path with the highest GB/s, in the order in which the paths were asked for.
  std::vector<const Row*> peaks;
  std::size_t measured_rows = 0;
  // Where both processes were on one CPU at most of the replies.
  std::size_t shared_rows = 0;
  std::size_t wrong_rows = 0;
  std::uint64_t wrong_bytes = 0;
};

Summary summary_of(const std::vector<Row>& rows) {
  Summary summary;
  for (const Row& row : rows) {
    if (!row.measured) continue;
    ++summary.measured_rows;
    summary.shared_rows += row.measured->same_cpu_share > 0.5 ? 1 : 0;
    summary.wrong_rows += row.measured->wrong_bytes > 0 ? 1 : 0;
    summary.wrong_bytes += row.measured->wrong_bytes;
    const auto peak = std::ranges::find(summary.peaks, row.asked, &Row::asked);
    if (peak == summary.peaks.end()) {
      summary.peaks.push_back(&row);
    } else if (row.gb_per_s() > (*peak)->gb_per_s()) {
      *peak = &row;
    }
  }
  return summary;
}

JsonObject row_json(const Row& row) {
  JsonObject json = {
      {"bytes", row.bytes}, {"path", path_name(row.asked)}, {"carried", row.measured.has_value()}};
  if (!row.measured.has_value()) return json;
  const Measured& m = *row.measured;
  json.add("taken", m.taken);
  json.add("iterations", m.iterations);
  json.add("latency_ns",
           JsonObject{{"p50", m.p50_ns}, {"p90", m.p90_ns}, {"p99", m.p99_ns}, {"max", m.max_ns}});
  json.add("one_way_ns", m.one_way_ns);
  json.add("gb_per_s", row.gb_per_s());
  json.add("memcpy_ns", m.memcpy_ns);
  json.add("memcpy_ratio", m.memcpy_ratio());
  json.add("wrong_bytes", m.wrong_bytes);
  json.add("same_cpu_share", m.same_cpu_share);
  return json;
}

std::string json_text(const Facts& facts, const std::vector<Row>& rows, const Summary& summary,
                      const Status& end) {
  JsonObject run;
  for (const auto& [name, text] : facts) run.add(name, text);
  std::vector<JsonObject> json_rows;
  for (const Row& row : rows) json_rows.push_back(row_json(row));
  JsonObject peaks;
  for (const Row* peak : summary.peaks) {
    peaks.add(path_name(peak->asked),
              JsonObject{{"bytes", peak->bytes}, {"gb_per_s", peak->gb_per_s()}});
  }
  JsonObject json = {
      {"schema_version", kSchemaVersion},   {"run", run},    {"rows", json_rows}, {"peak", peaks},
      {"wrong_bytes", summary.wrong_bytes}, {"ok", end.ok()}};
  if (!end.ok()) json.add("error", end.message());
  return json.indented() + "\n";
}

std::string summary_text(const Summary& summary, const Status& end) {
  std::string peaks;
  for (const Row* peak : summary.peaks) {
    peaks += fmt::format("{}{} {:.3f} GB/s at {}", peaks.empty() ? "" : ", ",
                         path_name(peak->asked), peak->gb_per_s(), size_text(peak->bytes));
  }
  std::string text =
      fmt::format("# peak: {}\n# wrong bytes: {}\n", peaks.empty() ? "nothing was measured" : peaks,
                  summary.wrong_bytes);
  if (summary.shared_rows > 0) {
    text += fmt::format(
        "# one CPU: in {} of {} rows both processes ran mostly on the same CPU, where they take "
        "turns; --cpus keeps them apart\n",
        summary.shared_rows, summary.measured_rows);
  }
  if (!end.ok()) text += fmt::format("# ended early or failed: {}\n", end.message());
  return text;
}

}  // namespace

double percentile(const std::vector<double>& sorted, double share) {
  const auto rank = static_cast<std::size_t>(std::ceil(share * static_cast<double>(sorted.size())));
  return sorted[std::clamp<std::size_t>(rank, 1, sorted.size()) - 1];
}

void ResultTable::begin(const Facts& facts) {
  facts_ = facts;
  if (form_ == OutputForm::kJson) return;
  for (const auto& [name, text] : facts) write(fmt::format("# {}: {}\n", name, text));
  const Table table(columns());
  write(form_ == OutputForm::kCsv ? table.csv_head() : '\n' + table.markdown_head());
}

void ResultTable::add(const Row& row) {
  rows_.push_back(row);
  if (form_ == OutputForm::kCsv) write(csv_line(cells_of(row)));
  if (form_ == OutputForm::kMarkdown) write(Table(columns()).markdown_row(cells_of(row)));
}

Status ResultTable::finish(Status end) {
  const Summary summary = summary_of(rows_);
  if (end.ok() && summary.wrong_bytes > 0) {
    end = {StatusCode::kMismatch, "{} bytes came wrong, in {} rows", summary.wrong_bytes,
           summary.wrong_rows};
  }
  if (form_ == OutputForm::kMarkdown) write("\n");
  write(form_ == OutputForm::kJson ? json_text(facts_, rows_, summary, end)
                                   : summary_text(summary, end));
  return end.ok() ? written_ : end;
}

}  // namespace airlock::xfer
