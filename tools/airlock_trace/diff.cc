#include "tools/airlock_trace/diff.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/log.h"
#include "runtime/json/json.h"
#include "runtime/trace/trace_reader.h"
#include "tools/airlock_trace/show.h"
#include "tools/airlock_trace/text.h"

namespace airlock::trace {
namespace {

using Cells = std::vector<std::string>;

bool same_paths(const TraceRecord& a, const TraceRecord& b) {
  const auto same = [](const TraceTensor& x, const TraceTensor& y) { return x.path == y.path; };
  return std::ranges::equal(a.inputs, b.inputs, same) &&
         std::ranges::equal(a.outputs, b.outputs, same);
}

bool same_shapes(const TraceRecord& a, const TraceRecord& b) {
  const auto same = [](const TraceTensor& x, const TraceTensor& y) { return x.desc == y.desc; };
  return a.op == b.op && a.weights == b.weights && a.transpose == b.transpose &&
         std::ranges::equal(a.inputs, b.inputs, same) &&
         std::ranges::equal(a.outputs, b.outputs, same);
}

std::string describe(const std::optional<TraceRecord>& record) {
  if (!record) return "nothing";
  std::string text(name_of(record->op));
  for (const WeightId& weight : record->weights) text += fmt::format(" {}", weight_text(weight));
  if (record->transpose != Transpose::kNone) {
    text += fmt::format(" transpose {}", transpose_text(record->transpose));
  }
  return fmt::format("{} {}", text, shapes_text(*record));
}

/// One line of the comparison: a figure of both.
struct Figure {
  std::string section;  // "op", "path" or "time"
  std::string name;
  std::string what;
  std::uint64_t a = 0;
  std::uint64_t b = 0;
  enum class Unit : std::uint8_t { kCount, kBytes, kNs } unit = Unit::kCount;

  std::string text(std::uint64_t value) const {
    if (unit == Unit::kBytes) return size_text(value);
    return unit == Unit::kNs ? milliseconds(value) + " ms" : std::to_string(value);
  }
};

void add_op(std::string_view name, const OpTotals& a, const OpTotals& b,
            std::vector<Figure>& figures) {
  using Unit = Figure::Unit;
  if (a.calls == 0 && b.calls == 0) return;
  const auto add = [&](const char* what, std::uint64_t OpTotals::*field, Unit unit) {
    figures.push_back({"op", std::string(name), what, a.*field, b.*field, unit});
  };
  add("calls", &OpTotals::calls, Unit::kCount);
  add("input_bytes", &OpTotals::input_bytes, Unit::kBytes);
  add("output_bytes", &OpTotals::output_bytes, Unit::kBytes);
  add("total_ns", &OpTotals::total_ns, Unit::kNs);
  add("tee_ns", &OpTotals::tee_ns, Unit::kNs);
  add("wire_ns", &OpTotals::wire_ns, Unit::kNs);
  add("queue_ns", &OpTotals::queue_ns, Unit::kNs);
  add("server_ns", &OpTotals::server_ns, Unit::kNs);
  add("p50_ns", &OpTotals::p50_ns, Unit::kNs);
  add("p99_ns", &OpTotals::p99_ns, Unit::kNs);
}

std::vector<Figure> figures_of(const TraceDiff& diff) {
  using Unit = Figure::Unit;
  std::vector<Figure> figures;
  for (std::size_t i = 0; i < kTracedOps.size(); ++i) {
    add_op(name_of(kTracedOps[i]), diff.a.ops[i], diff.b.ops[i], figures);
  }
  add_op("all", diff.a.all, diff.b.all, figures);
  for (std::size_t i = 0; i < kPathRows.size(); ++i) {
    const PathTotals &a = diff.a.paths[i], &b = diff.b.paths[i];
    if (a.tensors == 0 && b.tensors == 0) continue;
    const std::string name(kPathRows[i]);
    figures.push_back({"path", name, "tensors", a.tensors, b.tensors, Unit::kCount});
    figures.push_back({"path", name, "input_bytes", a.input_bytes, b.input_bytes, Unit::kBytes});
    figures.push_back({"path", name, "output_bytes", a.output_bytes, b.output_bytes, Unit::kBytes});
  }
  if (diff.a.has_wall() && diff.b.has_wall()) {
    figures.push_back(
        {"time", "wall", "ns", *diff.a.header.wall_ns, *diff.b.header.wall_ns, Unit::kNs});
  }
  const auto between_a = diff.a.between_ns(), between_b = diff.b.between_ns();
  if (between_a && between_b) {
    figures.push_back({"time", "tee_between", "ns", *between_a, *between_b, Unit::kNs});
  }
  figures.push_back(
      {"time", "under_way", "ns", diff.a.under_way_ns(), diff.b.under_way_ns(), Unit::kNs});
  return figures;
}

std::string header_line(std::string_view name, const TraceSummary& summary) {
  const TraceHeader& header = summary.header;
  return fmt::format("- {}: {}, {}, {}, {} tokens, {} prefill{}, attention {}, wire {}{}\n", name,
                     printable(summary.file), name_of(header.source), printable(header.model),
                     header.tokens, header.runs, header.runs == 1 ? "" : "s", header.attention,
                     name_of(header.wire), summary.cut.empty() ? "" : ", **cut off**");
}

std::string verdict(const TraceDiff& diff) {
  if (!diff.first) {
    return fmt::format("The {} ops have the same shapes{}.", diff.compared,
                       diff.other_paths == 0
                           ? " and paths"
                           : fmt::format("; {} took other paths", diff.other_paths));
  }
  return fmt::format(
      "{} of {} ops differ in shape or weights; A has {}, B has {}. First difference "
      "at position {}:\n\n- A: {}\n- B: {}",
      diff.differing, diff.compared, diff.a.all.calls, diff.b.all.calls, *diff.first, diff.first_a,
      diff.first_b);
}

std::string diff_markdown(const TraceDiff& diff) {
  std::string text =
      header_line("A", diff.a) + header_line("B", diff.b) + '\n' + verdict(diff) + "\n";
  for (const std::string_view section : {"op", "path", "time"}) {
    std::vector<Cells> rows;
    for (const Figure& figure : figures_of(diff)) {
      if (figure.section != section) continue;
      std::string what = figure.what.ends_with("_ns")
                             ? figure.what.substr(0, figure.what.size() - 3)
                             : figure.what;
      rows.push_back({figure.name, std::move(what), figure.text(figure.a), figure.text(figure.b),
                      ratio(figure.a, figure.b)});
    }
    if (!rows.empty()) {
      text += '\n' + markdown_table({std::string(section), "what", "A", "B", "B/A"}, rows, 2);
    }
  }
  return text;
}

std::string diff_csv(const TraceDiff& diff) {
  std::string text = csv_row({"section", "name", "what", "a", "b", "ratio"});
  for (const Figure& figure : figures_of(diff)) {
    text += csv_row({figure.section, figure.name, figure.what, std::to_string(figure.a),
                     std::to_string(figure.b), figure.a == 0 ? "" : ratio(figure.a, figure.b)});
  }
  text += csv_row({"shape", "all", "compared", std::to_string(diff.compared),
                   std::to_string(diff.compared), ""});
  return text + csv_row({"shape", "all", "differing", std::to_string(diff.differing),
                         std::to_string(diff.differing), ""});
}

/// Texts here are of our own letters: no quote, no backslash.
std::string diff_json(const TraceDiff& diff) {
  std::string text = "{\"a\":" + summary_json(diff.a) + ",\"b\":" + summary_json(diff.b);
  text +=
      fmt::format(",\"shapes\":{{\"same\":{},\"compared\":{},\"differing\":{},\"other_paths\":{}",
                  !diff.first, diff.compared, diff.differing, diff.other_paths);
  text += diff.first
              ? fmt::format(",\"first_difference\":{{\"position\":{},\"a\":\"{}\",\"b\":\"{}\"}}",
                            *diff.first, diff.first_a, diff.first_b)
              : ",\"first_difference\":null";
  text += "},\"figures\":[";
  bool first = true;
  for (const Figure& figure : figures_of(diff)) {
    text += fmt::format(
        "{}{{\"section\":\"{}\",\"name\":\"{}\",\"what\":\"{}\",\"a\":{},\"b\":{},\"ratio\":{}}}",
        first ? "" : ",", figure.section, figure.name, figure.what, figure.a, figure.b,
        figure.a == 0 ? "null" : ratio(figure.a, figure.b));
    first = false;
  }
  return text + "]}\n";
}

}  // namespace

Result<TraceDiff> compare(const std::string& a, const std::string& b) {
  ASSIGN_OR_RETURN(TraceReader reader_a, TraceReader::open(a));
  ASSIGN_OR_RETURN(TraceReader reader_b, TraceReader::open(b));
  Summariser sums_a, sums_b;
  TraceDiff diff;
  for (std::uint64_t position = 0;; ++position) {
    ASSIGN_OR_RETURN(const std::optional<TraceRecord> x, reader_a.next());
    ASSIGN_OR_RETURN(const std::optional<TraceRecord> y, reader_b.next());
    if (!x && !y) break;
    if (x) sums_a.add(*x);
    if (y) sums_b.add(*y);
    const bool both = x && y;
    const bool same = both && same_shapes(*x, *y);
    if (both) ++diff.compared;
    if (both && !same) ++diff.differing;
    if (same && !same_paths(*x, *y)) ++diff.other_paths;
    if (!same && !diff.first) {
      diff.first = position;
      diff.first_a = describe(x);
      diff.first_b = describe(y);
    }
  }
  diff.a = sums_a.finish();
  diff.b = sums_b.finish();
  for (auto [summary, reader, file] :
       {std::tuple{&diff.a, &reader_a, &a}, std::tuple{&diff.b, &reader_b, &b}}) {
    summary->file = *file;
    summary->header = reader->header();
    summary->cut = reader->cut();
  }
  return diff;
}

Result<std::string> diff(const std::string& a, const std::string& b, Form form) {
  ASSIGN_OR_RETURN(const TraceDiff compared, compare(a, b));
  for (const TraceSummary* summary : {&compared.a, &compared.b}) {
    if (!summary->cut.empty()) log_warning(summary->cut);
  }
  if (form == Form::kJson) return diff_json(compared);
  return form == Form::kCsv ? diff_csv(compared) : diff_markdown(compared);
}

}  // namespace airlock::trace
