#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "tools/airlock_report/format.h"
#include "tools/airlock_report/sections.h"
#include "tools/airlock_report/table.h"

namespace airlock::report {
namespace {

/// What the x axis of a trace's charts counts: nanoseconds, or ops where nothing was timed.
struct Span {
  Axis x;  // ends where the trace does
  std::uint64_t end = 0;
  std::uint64_t width = 0;
  std::string interval;  // "262 µs"
};

Span span_of(const ReportedTrace& trace) {
  const bool timed = trace.has_times();
  Span span;
  span.end = std::max<std::uint64_t>(timed ? trace.busy.end_ns() : trace.all.calls, 1);
  span.width = trace.bins.width();
  span.interval = timed             ? human_time(span.width)
                  : span.width == 1 ? "op"
                                    : fmt::format("{} ops", grouped(span.width));
  span.x.label = timed ? "since the first run began" : "ops, in order";
  span.x.high = static_cast<double>(span.end);
  span.x.ticks = linear_ticks(span.end, 5, timed ? Unit::kTime : Unit::kCount);
  std::erase_if(span.x.ticks, [&](const Tick& tick) { return tick.value > span.end; });
  return span;
}

/// One column a bin that `value(bin)` gives something for.
std::vector<Column> columns_of(const ReportedTrace& trace, const Span& span, const auto& value) {
  std::vector<Column> columns;
  const std::vector<Bin>& bins = trace.bins.bins();
  for (std::size_t i = 0; i < bins.size(); ++i) {
    const std::optional<std::uint64_t> height = value(bins[i]);
    if (height)
      columns.push_back({i * span.width, std::min((i + 1) * span.width, span.end), *height});
  }
  return columns;
}

std::string bytes_plot(const ReportedTrace& trace, const Span& span, Path path, ChartIds& ids) {
  const std::string_view name = series_of(path).name;
  const PathSnapshot& sums = trace.paths[path];
  Plot plot;
  plot.series = series_of(path);
  plot.unit = Unit::kBytes;
  plot.x = span.x;
  plot.y_label = fmt::format("bytes per {}", span.interval);
  plot.columns = columns_of(trace, span, [path](const Bin& bin) {
    return bin.bytes[path] != 0 ? std::optional(bin.bytes[path]) : std::nullopt;
  });
  if (plot.columns.empty()) return fmt::format("<p>Nothing went by {}.</p>\n", name);
  plot.text.title = fmt::format("Bytes by {}", name);
  const std::uint64_t most = std::ranges::max(plot.columns, {}, &Column::value).value;
  plot.text.description = fmt::format(
      "{} of inputs and {} of outputs went by {}; at most {} in {}.", human_bytes(sums.sent.bytes),
      human_bytes(sums.received.bytes), name, human_bytes(most), span.interval);
  return area_plot(ids, plot);
}

std::string fill_plot(const ReportedTrace& trace, const Span& span, ChartIds& ids) {
  const std::uint32_t slots = trace.header.ring_slots;
  if (slots == 0) return "<p>This trace was made without a ring.</p>\n";
  const std::uint64_t most = std::ranges::max(trace.bins.bins(), {}, &Bin::slots_most).slots_most;
  // Synthesis knows no ring's state.
  if (most == 0) return "<p>This trace does not tell the ring's fill.</p>\n";
  Plot plot;
  plot.series = series_of(Path::kRing);
  plot.x = span.x;
  plot.y_label = fmt::format("slots in use, the most at any submit within {}", span.interval);
  plot.columns = columns_of(trace, span, [](const Bin& bin) {
    return bin.ops != 0 ? std::optional(bin.slots_most) : std::nullopt;
  });
  plot.y_marks = {{slots, fmt::format("{} slots", slots)}};
  plot.text = {"The ring's fill", fmt::format("At most {} of {} slots were in use.", most, slots)};
  return area_plot(ids, plot);
}

std::string bins_table(const std::string& key, const ReportedTrace& trace, const Span& span) {
  const bool timed = trace.has_times();
  std::vector<std::string> columns = {timed ? "from, ns" : "from op", "ops submitted"};
  for (const Path path : kPaths) columns.push_back(fmt::format("{}, bytes", series_of(path).name));
  columns.emplace_back("slots in use, most");
  Table table(timed ? "Intervals in which something went on" : "Intervals, counted in ops",
              columns);
  const std::vector<Bin>& bins = trace.bins.bins();
  for (std::size_t i = 0; i < bins.size(); ++i) {
    const Bin& bin = bins[i];
    if (bin == Bin{}) continue;
    const std::string prefix = fmt::format("{}bins.{}.", key, i * span.width);
    table.row(grouped(i * span.width));
    table.number(prefix + "ops", bin.ops);
    for (const Path path : kPaths)
      table.number(fmt::format("{}{}_bytes", prefix, name_of(path)), bin.bytes[path]);
    table.number(prefix + "slots_most", bin.slots_most);
  }
  return table.folded(fmt::format("The {} intervals of the charts", table.rows()));
}

std::vector<std::string> tensor_lines(const std::vector<TraceTensor>& tensors) {
  std::vector<std::string> lines;
  for (const TraceTensor& tensor : tensors) {
    const std::string path = tensor.path ? fmt::format(" {}", name_of(*tensor.path)) : "";
    lines.push_back(fmt::format("{} {}{}", name_of(tensor.desc.dtype),
                                fmt::join(tensor.desc.shape.extents(), "\u00d7"), path));
  }
  return lines;
}

std::string big_ops_table(const std::string& key, std::string_view caption,
                          const std::vector<TraceRecord>& ops, bool times) {
  std::vector<std::string> columns = {"seq", "op", "layer", "bytes"};
  if (times) columns.insert(columns.end(), {"total, ns", "wire, ns", "server, ns"});
  columns.insert(columns.end(), {"inputs", "outputs"});
  Table table(caption, columns);
  for (std::size_t rank = 0; rank < ops.size(); ++rank) {  // a file may have a seq twice
    const TraceRecord& record = ops[rank];
    const std::string prefix = fmt::format("{}{}.", key, rank);
    table.row(fmt::format("{}", record.seq));
    table.text(name_of(record.op));
    table.text(record.layer ? fmt::format("{}", *record.layer) : "");
    table.number(prefix + "bytes", record.bytes());
    if (times) {
      table.number(prefix + "total_ns", record.times.total_ns);
      table.number(prefix + "wire_ns", record.times.wire_ns);
      table.number(prefix + "server_ns", record.times.server_ns);
    }
    table.lines(tensor_lines(record.inputs));
    table.lines(tensor_lines(record.outputs));
  }
  return table.html();
}

}  // namespace

std::string timeline_section(const std::vector<Input>& inputs, ChartIds& ids) {
  const std::string body =
      for_each_input(inputs, [&](const Input& input, const std::string& key) -> std::string {
        const ReportedTrace* trace = input.trace();
        if (trace == nullptr || trace->all.calls == 0) return {};
        const Span span = span_of(*trace);
        std::string part;
        if (!trace->has_times()) part = "<p>Without times, the charts go by the ops' order.</p>\n";
        for (const Path path : kPaths) part += bytes_plot(*trace, span, path, ids);
        return part + fill_plot(*trace, span, ids) + bins_table(key, *trace, span);
      });
  if (body.empty()) return {};
  return "<p>From the traces. Inputs count when their op is submitted, outputs when its reply was "
         "checked. Each chart has its own scale. The ring's fill is known at submits only.</p>\n" +
         body;
}

std::string biggest_section(const std::vector<Input>& inputs) {
  return for_each_input(inputs, [](const Input& input, const std::string& key) -> std::string {
    const ReportedTrace* trace = input.trace();
    if (trace == nullptr || trace->all.calls == 0) return {};
    std::string part = big_ops_table(
        key + "by_bytes.", fmt::format("The {} ops with the most bytes", trace->by_bytes.size()),
        trace->by_bytes, trace->has_times());
    if (!trace->has_times()) return part;
    return part + big_ops_table(key + "by_time.",
                                fmt::format("The {} longest ops", trace->by_time.size()),
                                trace->by_time, true);
  });
}

}  // namespace airlock::report
