#include "tools/airlock_xfer/table.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "runtime/json/writer.h"
#include "tools/airlock_xfer/plan.h"

namespace airlock::xfer {
namespace {

constexpr int kSchemaVersion = 1;
constexpr std::size_t kColumns = 11;
constexpr std::array<std::string_view, kColumns> kTitles{
    "bytes",  "path",   "taken", "iterations", "p50 us", "p90 us",
    "p99 us", "max us", "GB/s",  "x memcpy",   "#wrong"};
constexpr std::array<std::string_view, kColumns> kCsvTitles{
    "bytes",  "path",   "taken",    "iterations",   "p50_us",     "p90_us",
    "p99_us", "max_us", "gb_per_s", "memcpy_ratio", "wrong_bytes"};
constexpr std::array<int, kColumns> kWidths{10, 4, 5, 10, 10, 10, 10, 10, 7, 9, 6};

/// Three digits after the point where they mean something.
std::string us(double ns) {
  return ns < 1e6 ? fmt::format("{:.3f}", ns / 1e3) : fmt::format("{:.1f}", ns / 1e3);
}

std::array<std::string, kColumns> cells(const Row& row) {
  std::array<std::string, kColumns> out;
  out.fill("n/a");
  out[0] = std::to_string(row.bytes);
  out[1] = std::string(name_of(row.asked));
  if (!row.measured.has_value()) return out;
  const Measured& m = *row.measured;
  out[2] = m.taken;
  out[3] = std::to_string(m.iterations);
  out[4] = us(m.p50_ns);
  out[5] = us(m.p90_ns);
  out[6] = us(m.p99_ns);
  out[7] = us(m.max_ns);
  out[8] = fmt::format("{:.3f}", gb_per_s(row));
  out[9] = fmt::format("{:.2f}", m.memcpy_ratio());
  out[10] = std::to_string(m.wrong_bytes);
  return out;
}

template <typename Cells>
std::string md_line(const Cells& cells) {
  std::string line = "|";
  for (std::size_t i = 0; i < kColumns; ++i) {
    const bool is_text = i == 1 || i == 2;
    line += is_text ? fmt::format(" {:<{}} |", cells[i], kWidths[i])
                    : fmt::format(" {:>{}} |", cells[i], kWidths[i]);
  }
  return line + "\n";
}

std::string md_rule() {
  std::string line = "|";
  for (std::size_t i = 0; i < kColumns; ++i) {
    const bool is_text = i == 1 || i == 2;
    line += is_text ? fmt::format(" {:-<{}} |", "", kWidths[i])
                    : fmt::format(" {:-<{}}: |", "", kWidths[i] - 1);
  }
  return line + "\n";
}

template <typename Cells>
std::string csv_line(const Cells& cells) {
  std::string line;
  for (std::size_t i = 0; i < kColumns; ++i) {
    line += i == 0 ? "" : ",";
    line += cells[i];
  }
  return line + "\n";
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

void Table::begin(const Facts& facts) {
  facts_ = facts;
  if (format_ == Format::kJson) return;
  for (const auto& [name, text] : facts) sink_(fmt::format("# {}: {}\n", name, text));
  if (format_ == Format::kCsv) {
    sink_(csv_line(kCsvTitles));
  } else {
    sink_(fmt::format("\n{}{}", md_line(kTitles), md_rule()));
  }
}

void Table::add(const Row& row) {
  rows_.push_back(row);
  if (format_ == Format::kCsv) sink_(csv_line(cells(row)));
  if (format_ == Format::kMd) sink_(md_line(cells(row)));
}

void Table::finish(const Status& end) {
  if (format_ == Format::kJson) {
    write_json(end);
  } else {
    summarize(end);
  }
}

void Table::summarize(const Status& end) {
  std::string text;
  for (const Row& row : peaks(rows_)) {
    text += fmt::format("{}{} {:.3f} GB/s at {}", text.empty() ? "" : ", ", name_of(row.asked),
                        gb_per_s(row), size_text(row.bytes));
  }
  if (format_ == Format::kMd) sink_("\n");
  sink_(fmt::format("# peak: {}\n", text.empty() ? "nothing was measured" : text));
  sink_(fmt::format("# wrong bytes: {}\n", all_wrong(rows_)));
  const auto [shared, measured] = rows_on_one_cpu(rows_);
  if (shared > 0) {
    sink_(fmt::format(
        "# one CPU: in {} of {} rows both processes ran mostly on the same CPU, where they take "
        "turns; --cpus keeps them apart\n",
        shared, measured));
  }
  if (!end.ok()) sink_(fmt::format("# ended early or failed: {}\n", end.message()));
}

void Table::write_json(const Status& end) {
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
