#include <fmt/format.h>

#include <algorithm>

#include "tools/airlock_report/format.h"
#include "tools/airlock_report/sections.h"
#include "tools/airlock_report/table.h"

namespace airlock::report {
namespace {

/// What the x axis of a trace's charts counts: nanoseconds, or ops where nothing was timed.
struct Span {
  Unit unit = Unit::kTime;
  std::uint64_t end = 0;
  std::uint64_t width = 1;
  std::string interval;  // "262 µs"
};

Span span_of(const ReportedTrace& trace) {
  Span span;
  span.width = trace.bins.width();
  if (trace.has_times()) {
    span.end = std::max(trace.busy.end_ns(), std::uint64_t{1});
    span.interval = human_time(span.width);
  } else {
    span.unit = Unit::kCount;
    span.end = std::max(trace.all.calls, std::uint64_t{1});
    span.interval = span.width == 1 ? "op" : fmt::format("{} ops", grouped(span.width));
  }
  return span;
}

Axis x_axis(const Span& span) {
  Axis axis;
  axis.label = span.unit == Unit::kTime ? "since the first run began" : "ops, in order";
  axis.high = static_cast<double>(span.end);  // the chart ends where the trace does
  axis.ticks = linear_ticks(span.end, 5, span.unit);
  std::erase_if(axis.ticks, [&](const Tick& tick) { return tick.value > span.end; });
  return axis;
}

/// One column a bin; only those that `shown` holds for.
template <typename Value, typename Shown>
std::vector<Column> columns_of(const ReportedTrace& trace, const Span& span, Value value,
                               Shown shown) {
  std::vector<Column> columns;
  const std::vector<Bin>& bins = trace.bins.bins();
  for (std::size_t i = 0; i < bins.size(); ++i) {
    if (!shown(bins[i])) continue;
    columns.push_back({i * span.width, std::min((i + 1) * span.width, span.end), value(bins[i])});
  }
  return columns;
}

std::string bytes_plot(const ReportedTrace& trace, const Span& span, Path path, ChartIds& ids) {
  const std::string_view name = series_name(series_of(path));
  const PathSnapshot& sums = trace.paths[path];
  Plot plot;
  plot.series = series_of(path);
  plot.unit = Unit::kBytes;
  plot.x = x_axis(span);
  plot.y_label = fmt::format("bytes per {}", span.interval);
  const auto bytes = [path](const Bin& bin) { return bin.bytes[path]; };
  plot.columns = columns_of(trace, span, bytes, [&](const Bin& bin) { return bytes(bin) != 0; });
  plot.text.title = fmt::format("Bytes by {}", name);
  std::uint64_t most = 0;
  for (const Column& column : plot.columns) most = std::max(most, column.value);
  plot.text.description = fmt::format(
      "{} of inputs and {} of outputs went by {}; at most {} in {}.", human_bytes(sums.sent.bytes),
      human_bytes(sums.received.bytes), name, human_bytes(most), span.interval);
  if (plot.columns.empty()) return fmt::format("<p>Nothing went by {}.</p>\n", name);
  return area_plot(ids, plot);
}

std::string fill_plot(const ReportedTrace& trace, const Span& span, ChartIds& ids) {
  const std::uint32_t slots = trace.header.ring_slots;
  if (slots == 0) return "<p>This trace was made without a ring.</p>\n";
  std::uint64_t most = 0;
  for (const Bin& bin : trace.bins.bins()) most = std::max(most, bin.slots_most);
  // Synthesis knows no ring's state.
  if (most == 0) return "<p>This trace does not tell the ring's fill.</p>\n";
  Plot plot;
  plot.series = Series::kRing;
  plot.x = x_axis(span);
  plot.y_label = fmt::format("slots in use, the most at any submit within {}", span.interval);
  plot.columns = columns_of(
      trace, span, [](const Bin& bin) { return bin.slots_most; },
      [](const Bin& bin) { return bin.ops != 0; });
  plot.y_marks = {{slots, fmt::format("{} slots", slots)}};
  plot.text = {"The ring's fill", fmt::format("At most {} of {} slots were in use.", most, slots)};
  return area_plot(ids, plot);
}

std::string bins_table(const std::string& key, const ReportedTrace& trace, const Span& span) {
  const bool timed = span.unit == Unit::kTime;
  std::vector<std::string> columns = {timed ? "from, ns" : "from op", "ops submitted"};
  for (const Path path : kPaths)
    columns.push_back(fmt::format("{}, bytes", series_name(series_of(path))));
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
    std::string shape;
    for (const std::int64_t extent : tensor.desc.shape.extents())
      shape += fmt::format("{}{}", shape.empty() ? "" : "\u00d7", extent);
    const std::string path = tensor.path ? fmt::format(" {}", name_of(*tensor.path)) : "";
    lines.push_back(fmt::format("{} {}{}", name_of(tensor.desc.dtype), shape, path));
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
  std::string body;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const ReportedTrace* trace = inputs[i].trace();
    if (trace == nullptr || trace->all.calls == 0) continue;
    const Span span = span_of(*trace);
    body += input_heading(i, inputs[i]);
    if (span.unit != Unit::kTime)
      body += "<p>Without times, the charts go by the ops' order.</p>\n";
    for (const Path path : kPaths) body += bytes_plot(*trace, span, path, ids);
    body += fill_plot(*trace, span, ids) + bins_table(key_of(i), *trace, span);
  }
  if (body.empty()) return {};
  return "<p>From the traces. Inputs count when their op is submitted, outputs when its reply was "
         "checked. Each chart has its own scale. The ring's fill is known at submits only.</p>\n" +
         body;
}

std::string biggest_section(const std::vector<Input>& inputs) {
  std::string body;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const ReportedTrace* trace = inputs[i].trace();
    if (trace == nullptr || trace->all.calls == 0) continue;
    body += input_heading(i, inputs[i]);
    body += big_ops_table(key_of(i) + "by_bytes.",
                          fmt::format("The {} ops with the most bytes", trace->by_bytes.size()),
                          trace->by_bytes, trace->has_times());
    if (!trace->has_times()) continue;
    body += big_ops_table(key_of(i) + "by_time.",
                          fmt::format("The {} longest ops", trace->by_time.size()), trace->by_time,
                          true);
  }
  return body;
}

}  // namespace airlock::report
