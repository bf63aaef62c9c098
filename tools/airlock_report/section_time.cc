#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "runtime/text/figures.h"
#include "tools/airlock_report/format.h"
#include "tools/airlock_report/histogram_chart.h"
#include "tools/airlock_report/sections.h"
#include "tools/airlock_report/table.h"

namespace airlock::report {
namespace {

std::vector<Segment> segments_of(const OpTimes& times) {
  return {{kTee, times.tee_ns},
          {kWire, times.wire_ns},
          {kQueue, times.queue_ns},
          {kServer, times.server_ns}};
}

/// All that the input says about time, as one bar: the ops' parts, and what the TEE did beside.
std::vector<Segment> sides_of(const Input& input) {
  if (const ReportedTrace* trace = input.trace(); trace != nullptr) {
    std::vector<Segment> segments = segments_of(trace->all.times);
    if (const auto between = trace->between_ns()) segments.push_back({kBetween, *between});
    return segments;
  }
  std::vector<Segment> segments = segments_of(sum_of(input.stats()->ops).times);
  if (input.kind() == "tee_runner")
    segments.push_back({kKernel, sum_of(input.stats()->tee).total_ns});
  return segments;
}

std::string side_part(const std::string& key, const Input& input, ChartIds& ids) {
  const std::vector<Segment> segments = sides_of(input);
  const std::uint64_t total = total_of(segments);
  const auto percent = [total](std::uint64_t ns) {
    return percent_text(static_cast<double>(ns), static_cast<double>(total));
  };
  std::string words;
  Table table("Time by side", {"part", "time, ns", "time", "share"});
  for (const Segment& segment : segments) {
    const auto& [id, name, hatch] = segment.series;
    words += fmt::format("{}{} {} ({})", words.empty() ? "" : ", ", name, human_time(segment.value),
                         percent(segment.value));
    table.row(name);
    table.number(fmt::format("{}sides.{}_ns", key, id), segment.value);
    table.derived(human_time(segment.value));
    table.derived(percent(segment.value));
  }
  if (input.trace() != nullptr && !input.trace()->between_ns()) {
    words += fmt::format(", {} not known", kBetween.name);
    table.row(kBetween.name);
    for (int column = 0; column < 3; ++column) table.derived("-");
  }
  const ChartText text{"Time by side", fmt::format("One stacked bar: {}.", words)};
  return stacked_bars(ids, text, {{"all", segments, human_time(total)}}, Unit::kTime) +
         legend(segments) + table.html();
}

/// Bars of time; `what` says in words what they are.
std::string time_bars(ChartIds& ids, std::string title, std::string_view what,
                      const std::vector<BarRow>& rows) {
  std::string words;
  for (const BarRow& row : rows)
    words += fmt::format("{} {} {}", words.empty() ? ":" : ",", row.label, row.value);
  return stacked_bars(ids, {std::move(title), fmt::format("{}{}.", what, words)}, rows,
                      Unit::kTime);
}

BarRow time_row(std::string_view label, std::vector<Segment> segments, std::uint64_t ns) {
  return {std::string(label), std::move(segments), human_time(ns)};
}

std::string ops_part(const std::string& key, const Input& input, ChartIds& ids) {
  Table table("Time by op, ns", {"op", "calls", "total", "TEE", "wire", "queue", "server"});
  std::vector<BarRow> bars;
  for (const Op op : kOps) {
    const OpSnapshot& sums = input.op(op);
    if (sums.calls == 0) continue;
    bars.push_back(time_row(name_of(op), segments_of(sums.times), sums.times.total_ns));
    table.row(name_of(op));
    table.numbers(fmt::format("{}ops.{}.", key, name_of(op)), sums);
  }
  if (table.rows() == 0) return "<p>No op was counted.</p>\n";
  return time_bars(ids, "Time by op", "A stacked bar for each op", bars) + table.html();
}

/// Nothing where no op ran on a device.
std::string devices_part(const std::string& key, const Input& input) {
  Table table("Time on the device by op, ns", {"op", "copy in", "compute", "copy out"});
  for (const Op op : kOps) {
    const DeviceTimes& device = input.op(op).times.device;
    if (device == DeviceTimes{}) continue;
    table.row(name_of(op));
    table.numbers(fmt::format("{}ops.{}.device.", key, name_of(op)), device);
  }
  if (table.rows() == 0) return {};
  return "<p class=\"soft\">By the device's own clock. The copies of one op may run while another "
         "computes.</p>\n" +
         table.html();
}

std::string kernels_part(const std::string& key, const SideReport& report, ChartIds& ids) {
  Table table("TEE kernels", {"kernel", "calls", "total, ns", "total"});
  std::vector<BarRow> bars;
  for (const TeeKernel kernel : kValuesOf<TeeKernel>) {
    const TeeKernelSnapshot& sums = report.tee[kernel];
    table.row(name_of(kernel));
    table.numbers(fmt::format("{}tee.{}.", key, name_of(kernel)), sums);
    table.derived(human_time(sums.total_ns));
    if (sums.calls != 0)
      bars.push_back(time_row(name_of(kernel), {{kKernel, sums.total_ns}}, sums.total_ns));
  }
  if (bars.empty()) return {};
  return time_bars(ids, "TEE kernels", "A bar for each kernel", bars) +
         "<p class=\"soft\">Kernels run between the ops; a part may run while an op is under "
         "way.</p>\n" +
         table.html();
}

using PathHistograms = PerValue<Path, HistogramSnapshot>;

/// Files whose histograms may be merged: those of one kind.
struct Group {
  std::string key;    // "merged.tee_runner."
  std::string title;  // plain text
  std::vector<std::size_t> members;
  PathHistograms merged;
};

PathHistograms histograms_of(const Input& input) {
  PathHistograms histograms;
  if (input.trace() != nullptr && !input.trace()->has_times()) return histograms;
  for (const Path path : kPaths) histograms[path] = input.paths()[path].latency_ns;
  return histograms;
}

Group group_of(const std::vector<Input>& inputs, std::string_view kind, std::string_view title) {
  Group group{fmt::format("merged.{}.", kind), std::string(title), {}, {}};
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const PathHistograms histograms = histograms_of(inputs[i]);
    if (inputs[i].kind() != kind || histograms == PathHistograms{}) continue;
    group.members.push_back(i);
    merge(group.merged, histograms);
  }
  return group;
}

void add_rows(Table& table, const std::string& key, const std::string& name,
              const PathHistograms& histograms) {
  for (const Path path : kPaths) {
    const HistogramSnapshot& histogram = histograms[path];
    if (histogram.count() == 0) continue;
    table.row(name);
    table.text(name_of(path));
    add_percentiles(table, fmt::format("{}paths.{}.latency_ns.", key, name_of(path)), histogram);
  }
}

std::string bucket_table(const std::string& key, const Group& group) {
  Table table("Ops in each bucket", {"path", "up to, ns", "up to", "ops"});
  for (const Path path : kPaths) {
    add_buckets(table, name_of(path), fmt::format("{}paths.{}.latency_ns.", key, name_of(path)),
                group.merged[path]);
  }
  return table.folded(fmt::format("The {} buckets of the charts", table.rows()));
}

std::string group_part(const Group& group, const std::vector<Input>& inputs, ChartIds& ids) {
  TimeRange range;
  for (const HistogramSnapshot& histogram : group.merged) range.take(histogram);
  std::string body = fmt::format("<h3>{}</h3>\n", escape_html(group.title));
  for (const Path path : kPaths) {
    body += histogram_plot(ids,
                           {fmt::format("Latency of ops on the {} path", name_of(path)),
                            "latency of an op, logarithmic", "ops", series_of(path)},
                           group.merged[path], range);
  }
  Table table("Latency per path, ns", {"file", "path", "ops", "p50", "p90", "p99", "max"});
  for (const std::size_t i : group.members)
    add_rows(table, key_of(i), fmt::format("{}. {}", i + 1, inputs[i].file),
             histograms_of(inputs[i]));
  if (group.members.size() > 1)
    add_rows(table, group.key, fmt::format("all {} merged", group.members.size()), group.merged);
  const std::string key = group.members.size() > 1 ? group.key : key_of(group.members[0]);
  return body + table.html() + bucket_table(key, group);
}

}  // namespace

std::string time_section(const std::vector<Input>& inputs, ChartIds& ids) {
  return "<p>Where the time of each op went: in the TEE (encoding and checking), on the wire "
         "(copies, sockets, waking up), waiting for a turn at the server, and in its "
         "computation.</p>\n" +
         for_each_input(inputs, [&](const Input& input, const std::string& key) -> std::string {
           if (input.trace() != nullptr && !input.trace()->has_times())
             return "<p>This trace has no times.</p>\n";
           std::string body =
               side_part(key, input, ids) + ops_part(key, input, ids) + devices_part(key, input);
           if (input.kind() == "tee_runner") body += kernels_part(key, *input.stats(), ids);
           return body;
         });
}

std::string latency_section(const std::vector<Input>& inputs, ChartIds& ids) {
  std::string body;
  for (const auto& [kind, title] : {std::pair("tee_runner", "Runners' statistics"),
                                    {"gpu_server", "Servers' statistics"},
                                    {"trace", "Traces"}}) {
    const Group group = group_of(inputs, kind, title);
    if (!group.members.empty()) body += group_part(group, inputs, ids);
  }
  if (body.empty()) return {};
  return "<p>An op's whole time less what the server reports for itself. An op counts on ZeroMQ if "
         "any of its tensors went there. Percentiles are the upper edge of a bucket of the merged "
         "histogram, at most 12.5 % above the value; they are never averaged.</p>\n" +
         body;
}

}  // namespace airlock::report
