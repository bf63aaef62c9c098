#include <fmt/format.h>

#include <optional>
#include <utility>

#include "runtime/text/figures.h"
#include "tools/airlock_report/format.h"
#include "tools/airlock_report/sections.h"
#include "tools/airlock_report/table.h"

namespace airlock::report {
namespace {

std::vector<Segment> segments_of(const OpTimes& times) {
  return {{Series::kTee, times.tee_ns},
          {Series::kWire, times.wire_ns},
          {Series::kQueue, times.queue_ns},
          {Series::kServer, times.server_ns}};
}

OpTimes sum_of(const Input& input) {
  OpSnapshot sum;
  for (const Op op : kOps) merge(sum, input.op(op));
  return sum.times;
}

std::uint64_t kernels_ns(const SideReport& report) {
  std::uint64_t sum = 0;
  for (const TeeKernelSnapshot& kernel : report.tee) merge(sum, kernel.total_ns);
  return sum;
}

/// All that the input says about time, as one bar: the ops' parts, and what the TEE did beside.
std::vector<Segment> sides_of(const Input& input) {
  std::vector<Segment> segments = segments_of(sum_of(input));
  if (input.stats() != nullptr && input.stats()->side == "tee_runner")
    segments.push_back({Series::kKernel, kernels_ns(*input.stats())});
  const auto between = input.trace() == nullptr ? std::nullopt : input.trace()->between_ns();
  if (between) segments.push_back({Series::kBetween, *between});
  return segments;
}

std::vector<Series> series_of(const std::vector<Segment>& segments) {
  std::vector<Series> series;
  for (const Segment& segment : segments) series.push_back(segment.series);
  return series;
}

std::string side_part(const std::string& key, const Input& input, ChartIds& ids) {
  const std::vector<Segment> segments = sides_of(input);
  std::uint64_t total = 0;
  for (const Segment& segment : segments) merge(total, segment.value);
  const auto percent = [total](std::uint64_t ns) {
    return percent_text(static_cast<double>(ns), static_cast<double>(total));
  };
  std::string words;
  Table table("Time by side", {"part", "time, ns", "time", "share"});
  for (const Segment& segment : segments) {
    const std::string_view name = series_name(segment.series);
    words += fmt::format("{}{} {} ({})", words.empty() ? "" : ", ", name, human_time(segment.value),
                         percent(segment.value));
    table.row(name);
    table.number(fmt::format("{}sides.{}_ns", key, series_id(segment.series)), segment.value);
    table.derived(human_time(segment.value));
    table.derived(percent(segment.value));
  }
  if (input.trace() != nullptr && !input.trace()->between_ns()) {
    words += fmt::format(", {} not known", series_name(Series::kBetween));
    table.row(series_name(Series::kBetween));
    for (int column = 0; column < 3; ++column) table.derived("-");
  }
  const ChartText text{"Time by side", fmt::format("One stacked bar: {}.", words)};
  return stacked_bars(ids, text, {{"all", segments, human_time(total)}}, Unit::kTime) +
         legend(series_of(segments)) + table.html();
}

/// Bars of time, and what they say in words.
struct TimeBars {
  void add(std::string_view name, std::vector<Segment> segments, std::uint64_t ns) {
    words += fmt::format("{}{} {}", words.empty() ? "" : ", ", name, human_time(ns));
    rows.push_back({std::string(name), std::move(segments), human_time(ns)});
  }
  std::string html(ChartIds& ids, std::string title, std::string_view what) const {
    return stacked_bars(ids, {std::move(title), fmt::format("{}: {}.", what, words)}, rows,
                        Unit::kTime);
  }
  std::vector<BarRow> rows;
  std::string words;
};

std::string ops_part(const std::string& key, const Input& input, ChartIds& ids) {
  Table table("Time by op, ns", {"op", "calls", "total", "TEE", "wire", "queue", "server"});
  TimeBars bars;
  for (const Op op : kOps) {
    const OpSnapshot& sums = input.op(op);
    if (sums.calls == 0) continue;
    bars.add(name_of(op), segments_of(sums.times), sums.times.total_ns);
    table.row(name_of(op));
    table.numbers(fmt::format("{}ops.{}.", key, name_of(op)), sums);
  }
  if (table.rows() == 0) return "<p>No op was counted.</p>\n";
  return bars.html(ids, "Time by op", "A stacked bar for each op") + table.html();
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
  TimeBars bars;
  for (const TeeKernel kernel : kValuesOf<TeeKernel>) {
    const TeeKernelSnapshot& sums = report.tee[kernel];
    table.row(name_of(kernel));
    table.numbers(fmt::format("{}tee.{}.", key, name_of(kernel)), sums);
    table.derived(human_time(sums.total_ns));
    if (sums.calls != 0)
      bars.add(name_of(kernel), {{Series::kKernel, sums.total_ns}}, sums.total_ns);
  }
  if (bars.rows.empty()) return {};
  return bars.html(ids, "TEE kernels", "A bar for each kernel") +
         "<p class=\"soft\">Kernels run between the ops; a part may run while an op is under "
         "way.</p>\n" +
         table.html();
}

}  // namespace

std::string time_section(const std::vector<Input>& inputs, ChartIds& ids) {
  std::string body =
      "<p>Where the time of each op went: in the TEE (encoding and checking), on the wire (copies, "
      "sockets, waking up), waiting for a turn at the server, and in its computation.</p>\n";
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const Input& input = inputs[i];
    body += input_heading(i, input);
    if (input.trace() != nullptr && !input.trace()->has_times()) {
      body += "<p>This trace has no times.</p>\n";
      continue;
    }
    body += side_part(key_of(i), input, ids) + ops_part(key_of(i), input, ids) +
            devices_part(key_of(i), input);
    if (input.stats() != nullptr && input.stats()->side == "tee_runner")
      body += kernels_part(key_of(i), *input.stats(), ids);
  }
  return body;
}

}  // namespace airlock::report
