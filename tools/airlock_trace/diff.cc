#include "tools/airlock_trace/diff.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/log.h"
#include "runtime/json/reader.h"
#include "runtime/text/figures.h"
#include "runtime/text/table.h"
#include "runtime/trace/trace_reader.h"
#include "tools/airlock_trace/show.h"

namespace airlock::trace {
namespace {

template <typename Member>
bool same_tensors(const TraceRecord& a, const TraceRecord& b, Member TraceTensor::*member) {
  return std::ranges::equal(a.inputs, b.inputs, {}, member, member) &&
         std::ranges::equal(a.outputs, b.outputs, {}, member, member);
}

bool same_shapes(const TraceRecord& a, const TraceRecord& b) {
  return a.op == b.op && a.weights == b.weights && a.transpose == b.transpose &&
         same_tensors(a, b, &TraceTensor::desc);
}

std::string describe(const std::optional<TraceRecord>& record) {
  if (!record) return "nothing";
  std::string text(name_of(record->op));
  for (const WeightId& weight : record->weights) text += fmt::format(" {}", weight_text(weight));
  if (record->transpose != Transpose::kNone) {
    text += fmt::format(" transpose {}", name_of(record->transpose));
  }
  return fmt::format("{} {}", text, shapes_text(*record));
}

/// Figures of A and B side by side.
Table figures_of(const TraceDiff& diff) {
  Table table({"section", "name", "what", {"A", "a"}, {"B", "b"}, {"B/A", "ratio"}});
  using Write = Cell (*)(std::uint64_t);
  const auto add = [&](std::string_view section, std::string_view name, Cell what, std::uint64_t a,
                       std::uint64_t b, Write write) {
    table.add({section, name, std::move(what), write(a), write(b),
               a == 0 ? Cell() : Cell::real(static_cast<double>(b) / static_cast<double>(a), 3)});
  };
  const auto add_time = [&](std::string_view section, std::string_view name, std::string_view what,
                            std::uint64_t a, std::uint64_t b) {
    const std::string shown(what.substr(0, what.size() - (what.ends_with("_ns") ? 3 : 0)));
    add(section, name, Cell(what).shown_as(shown), a, b,
        [](std::uint64_t ns) { return Cell(ns).shown_as(ms_text(ns) + " ms"); });
  };
  const Write count = [](std::uint64_t value) { return Cell(value); };
  const auto add_op = [&](std::string_view name, const OpSums& a, const OpSums& b) {
    if (a.calls == 0 && b.calls == 0) return;
    add("op", name, "calls", a.calls, b.calls, count);
    add("op", name, "input_bytes", a.input_bytes, b.input_bytes, Cell::size);
    add("op", name, "output_bytes", a.output_bytes, b.output_bytes, Cell::size);
    const auto add_part = [&](std::string_view key, std::uint64_t x, std::uint64_t y) {
      add_time("op", name, key, x, y);
    };
    visit_times(add_part, a.times, b.times);
    add_part("p50_ns", a.call_ns.percentile(0.5), b.call_ns.percentile(0.5));
    add_part("p99_ns", a.call_ns.percentile(0.99), b.call_ns.percentile(0.99));
  };
  const auto add_path = [&](std::string_view name, const PathSnapshot& a, const PathSnapshot& b) {
    if (tensors_of(a) == 0 && tensors_of(b) == 0) return;
    add("path", name, "tensors", tensors_of(a), tensors_of(b), count);
    add("path", name, "input_bytes", a.sent.bytes, b.sent.bytes, Cell::size);
    add("path", name, "output_bytes", a.received.bytes, b.received.bytes, Cell::size);
  };
  const TraceFileSummary &a = diff.a, &b = diff.b;
  for (const Op op : kComputeOps) add_op(name_of(op), a.ops[op], b.ops[op]);
  add_op("all", a.all, b.all);
  visit_paths(add_path, a, b);
  if (a.header.wall_ns.value_or(0) != 0 && b.header.wall_ns.value_or(0) != 0)
    add_time("time", "wall", "ns", *a.header.wall_ns, *b.header.wall_ns);
  const auto between_a = a.between_ns(), between_b = b.between_ns();
  if (between_a && between_b) add_time("time", "tee_between", "ns", *between_a, *between_b);
  add_time("time", "under_way", "ns", a.busy.busy_ns(), b.busy.busy_ns());
  return table;
}

std::string header_line(std::string_view name, const TraceFileSummary& summary) {
  const TraceHeader& header = summary.header;
  return fmt::format("- {}: {}, {}, {}, {} tokens, {}, attention {}, wire {}{}\n", name,
                     printable(summary.file), name_of(header.source), printable(header.model),
                     header.tokens, prefills_text(header.runs), header.attention,
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
      "{} of {} ops differ in shape or weights; A has {}, B has {}. First difference at position "
      "{}:\n\n- A: {}\n- B: {}",
      diff.differing, diff.compared, diff.a.all.calls, diff.b.all.calls, *diff.first, diff.first_a,
      diff.first_b);
}

/// A table a section, whose name is the heading of the names.
std::string diff_markdown(const TraceDiff& diff) {
  std::string text =
      header_line("A", diff.a) + header_line("B", diff.b) + '\n' + verdict(diff) + "\n";
  const Table figures = figures_of(diff);
  for (const char* section : {"op", "path", "time"}) {
    Table table({left(section), left("what"), "A", "B", "B/A"});
    for (const Cells& row : figures.rows()) {
      if (row[0].shown() == section) table.add({row.begin() + 1, row.end()});
    }
    if (!table.empty()) text += '\n' + table.markdown();
  }
  return text;
}

std::string diff_csv(const TraceDiff& diff) {
  return figures_of(diff).csv() +
         csv_line({"shape", "all", "compared", diff.compared, diff.compared, {}}) +
         csv_line({"shape", "all", "differing", diff.differing, diff.differing, {}});
}

std::string diff_json(const TraceDiff& diff) {
  std::optional<JsonObject> first;
  if (diff.first) first = {{"position", *diff.first}, {"a", diff.first_a}, {"b", diff.first_b}};
  return JsonObject{{"a", summary_json(diff.a)},
                    {"b", summary_json(diff.b)},
                    {"shapes", JsonObject{{"same", !diff.first},
                                          {"compared", diff.compared},
                                          {"differing", diff.differing},
                                          {"other_paths", diff.other_paths},
                                          {"first_difference", first}}},
                    {"figures", figures_of(diff).json()}}
      .line();
}

}  // namespace

Result<TraceDiff> compare(const std::string& a, const std::string& b) {
  ASSIGN_OR_RETURN(TraceReader reader_a, TraceReader::open(a));
  ASSIGN_OR_RETURN(TraceReader reader_b, TraceReader::open(b));
  TraceDiff diff{{a, reader_a.header()}, {b, reader_b.header()}};
  for (std::uint64_t position = 0;; ++position) {
    ASSIGN_OR_RETURN(const std::optional<TraceRecord> x, reader_a.next());
    ASSIGN_OR_RETURN(const std::optional<TraceRecord> y, reader_b.next());
    if (!x && !y) break;
    if (x) diff.a.add(*x);
    if (y) diff.b.add(*y);
    const bool both = x && y;
    const bool same = both && same_shapes(*x, *y);
    if (both) ++diff.compared;
    if (both && !same) ++diff.differing;
    if (same && !same_tensors(*x, *y, &TraceTensor::path)) ++diff.other_paths;
    if (!same && !diff.first) {
      diff.first = position;
      diff.first_a = describe(x);
      diff.first_b = describe(y);
    }
  }
  diff.a.cut = reader_a.cut();
  diff.b.cut = reader_b.cut();
  return diff;
}

Result<std::string> diff(const std::string& a, const std::string& b, OutputForm form) {
  ASSIGN_OR_RETURN(const TraceDiff compared, compare(a, b));
  for (const TraceFileSummary* summary : {&compared.a, &compared.b}) {
    if (!summary->cut.empty()) log_warning(summary->cut);
  }
  if (form == OutputForm::kJson) return diff_json(compared);
  return form == OutputForm::kCsv ? diff_csv(compared) : diff_markdown(compared);
}

}  // namespace airlock::trace
