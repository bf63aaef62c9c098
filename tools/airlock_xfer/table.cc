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
  Cells cells = {row.bytes, name_of(row.asked)};
  if (row.measured.has_value()) {
    const Measured& m = *row.measured;
    cells.insert(cells.end(),
                 {m.taken, m.iterations, us(m.p50_ns), us(m.p90_ns), us(m.p99_ns), us(m.max_ns),
                  Cell::real(gb_per_s(row), 3), Cell::real(m.memcpy_ratio(), 2), m.wrong_bytes});
  }
  cells.resize(columns().size(), "n/a");
  return cells;
}

/// The row of each path with the highest GB/s, in the order in which the paths were asked for.
std::vector<Row> peaks(const std::vector<Row>& rows) {
  std::vector<Row> best;
  for (const Row& row : rows) {
    if (!row.measured.has_value()) continue;
    const auto found = std::ranges::find(best, row.asked, &Row::asked);
    if (found == best.end()) {
      best.push_back(row);
    } else if (gb_per_s(row) > gb_per_s(*found)) {
      *found = row;
    }
  }
  return best;
}

std::uint64_t all_wrong(const std::vector<Row>& rows) {
  std::uint64_t wrong = 0;
  for (const Row& row : rows) wrong += row.measured.has_value() ? row.measured->wrong_bytes : 0;
  return wrong;
}

/// (rows where both processes were on one CPU at most of the replies, rows that were measured)
std::pair<std::size_t, std::size_t> rows_on_one_cpu(const std::vector<Row>& rows) {
  std::size_t shared = 0;
  std::size_t measured = 0;
  for (const Row& row : rows) {
    if (!row.measured.has_value()) continue;
    ++measured;
    if (row.measured->same_cpu_share > 0.5) ++shared;
  }
  return {shared, measured};
}

JsonObject row_json(const Row& row) {
  JsonObject json = {
      {"bytes", row.bytes}, {"path", name_of(row.asked)}, {"carried", row.measured.has_value()}};
  if (!row.measured.has_value()) return json;
  const Measured& m = *row.measured;
  json.add("taken", m.taken);
  json.add("iterations", m.iterations);
  json.add("latency_ns",
           JsonObject{{"p50", m.p50_ns}, {"p90", m.p90_ns}, {"p99", m.p99_ns}, {"max", m.max_ns}});
  json.add("one_way_ns", m.one_way_ns);
  json.add("gb_per_s", gb_per_s(row));
  json.add("memcpy_ns", m.memcpy_ns);
  json.add("memcpy_ratio", m.memcpy_ratio());
  json.add("wrong_bytes", m.wrong_bytes);
  json.add("same_cpu_share", m.same_cpu_share);
  return json;
}

}  // namespace

double percentile(const std::vector<double>& sorted, double share) {
  const auto rank = static_cast<std::size_t>(std::ceil(share * static_cast<double>(sorted.size())));
  return sorted[std::clamp<std::size_t>(rank, 1, sorted.size()) - 1];
}

double gb_per_s(const Row& row) {
  if (!row.measured.has_value()) return 0;
  return static_cast<double>(row.bytes) / row.measured->one_way_ns;
}

void ResultTable::begin(const Facts& facts) {
  facts_ = facts;
  if (form_ == OutputForm::kJson) return;
  for (const auto& [name, text] : facts) sink_(fmt::format("# {}: {}\n", name, text));
  const Table table(columns());
  sink_(form_ == OutputForm::kCsv ? table.csv_head() : '\n' + table.markdown_head());
}

void ResultTable::add(const Row& row) {
  rows_.push_back(row);
  if (form_ == OutputForm::kCsv) sink_(csv_line(cells_of(row)));
  if (form_ == OutputForm::kMarkdown) sink_(Table(columns()).markdown_row(cells_of(row)));
}

void ResultTable::finish(const Status& end) {
  if (form_ == OutputForm::kJson) {
    write_json(end);
  } else {
    summarize(end);
  }
}

void ResultTable::summarize(const Status& end) {
  std::string text;
  for (const Row& row : peaks(rows_)) {
    text += fmt::format("{}{} {:.3f} GB/s at {}", text.empty() ? "" : ", ", name_of(row.asked),
                        gb_per_s(row), size_text(row.bytes));
  }
  if (form_ == OutputForm::kMarkdown) sink_("\n");
  sink_(fmt::format("# peak: {}\n", text.empty() ? "nothing was measured" : text));
  sink_(fmt::format("# wrong bytes: {}\n", all_wrong(rows_)));
  const auto [shared, measured] = rows_on_one_cpu(rows_);
  if (shared > 0) {
    sink_(
        fmt::format("# one CPU: in {} of {} rows both processes ran mostly on the same CPU, where "
                    "they take turns; --cpus keeps them apart\n",
                    shared, measured));
  }
  if (!end.ok()) sink_(fmt::format("# ended early or failed: {}\n", end.message()));
}

void ResultTable::write_json(const Status& end) {
  JsonObject run;
  for (const auto& [name, text] : facts_) run.add(name, text);
  std::vector<JsonObject> rows;
  for (const Row& row : rows_) rows.push_back(row_json(row));
  JsonObject peak;
  for (const Row& row : peaks(rows_))
    peak.add(name_of(row.asked), JsonObject{{"bytes", row.bytes}, {"gb_per_s", gb_per_s(row)}});
  JsonObject json = {
      {"schema_version", kSchemaVersion}, {"run", run},    {"rows", rows}, {"peak", peak},
      {"wrong_bytes", all_wrong(rows_)},  {"ok", end.ok()}};
  if (!end.ok()) json.add("error", end.message());
  sink_(json.indented() + "\n");
}

}  // namespace airlock::xfer
