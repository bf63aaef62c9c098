#include <fmt/format.h>

#include <optional>

#include "tools/airlock_report/bins.h"
#include "tools/airlock_report/format.h"
#include "tools/airlock_report/sections.h"
#include "tools/airlock_report/table.h"

namespace airlock::report {
namespace {

std::vector<Segment> segments_of(const OpSnapshot& op) {
  return {{Series::kTee, op.tee_ns},
          {Series::kWire, op.wire_ns},
          {Series::kQueue, op.queue_ns},
          {Series::kServer, op.server_ns}};
}

OpSnapshot sum_of(const OpSnapshotTable& table) {
  OpSnapshot sum;
  for (const OpSnapshot& op : table.ops) sum.merge(op);
  return sum;
}

std::uint64_t kernels_ns(const SideReport& report) {
  std::uint64_t sum = 0;
  for (const TeeKernelSnapshot& kernel : report.tee) sum = add_saturating(sum, kernel.total_ns);
  return sum;
}

/// All that the input says about time, as one bar: the ops' parts, and what the TEE did beside.
std::vector<Segment> sides_of(const Input& input) {
  std::vector<Segment> segments = segments_of(sum_of(input.ops()));
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
  for (const Segment& segment : segments) total = add_saturating(total, segment.value);
  std::string words;
  Table table("Time by side", {"part", "time, ns", "time", "share"});
  for (const Segment& segment : segments) {
    const std::string_view name = series_name(segment.series);
    words += fmt::format("{}{} {} ({})", words.empty() ? "" : ", ", name, human_time(segment.value),
                         percent(segment.value, total));
    table.row(name);
    table.number(fmt::format("{}sides.{}_ns", key, series_id(segment.series)), segment.value);
    table.derived(human_time(segment.value));
    table.derived(percent(segment.value, total));
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

std::string ops_part(const std::string& key, const Input& input, ChartIds& ids) {
  Table table("Time by op, ns", {"op", "calls", "total", "TEE", "wire", "queue", "server"});
  std::vector<BarRow> rows;
  std::string words;
  for (std::size_t i = 0; i < kCountOf<Op>; ++i) {
    const OpSnapshot& op = input.ops().ops[i];
    if (op.calls == 0) continue;
    const std::string name(name_of(kOps[i]));
    rows.push_back({name, segments_of(op), human_time(op.total_ns)});
    words += fmt::format("{}{} {}", words.empty() ? "" : ", ", name, human_time(op.total_ns));
    table.row(name);
    const std::string prefix = fmt::format("{}ops.{}.", key, name);
    table.number(prefix + "calls", op.calls);
    table.number(prefix + "total_ns", op.total_ns);
    table.number(prefix + "tee_ns", op.tee_ns);
    table.number(prefix + "wire_ns", op.wire_ns);
    table.number(prefix + "queue_ns", op.queue_ns);
    table.number(prefix + "server_ns", op.server_ns);
  }
  if (rows.empty()) return "<p>No op was counted.</p>\n";
  const ChartText text{"Time by op", fmt::format("A stacked bar for each op: {}.", words)};
  return stacked_bars(ids, text, rows, Unit::kTime) + table.html();
}

/// Nothing where no op ran on a device.
std::string devices_part(const std::string& key, const OpSnapshotTable& ops) {
  Table table("Time on the device by op, ns", {"op", "copy in", "compute", "copy out"});
  for (std::size_t i = 0; i < kCountOf<Op>; ++i) {
    const DeviceSnapshot& device = ops.ops[i].device;
    if (device == DeviceSnapshot{}) continue;
    const std::string name(name_of(kOps[i]));
    const std::string prefix = fmt::format("{}ops.{}.device.", key, name);
    table.row(name);
    table.number(prefix + "copy_in_ns", device.copy_in_ns);
    table.number(prefix + "compute_ns", device.compute_ns);
    table.number(prefix + "copy_out_ns", device.copy_out_ns);
  }
  if (table.rows() == 0) return {};
  return "<p class=\"soft\">By the device's own clock. The copies of one op may run while another "
         "computes.</p>\n" +
         table.html();
}

std::string kernels_part(const std::string& key, const SideReport& report, ChartIds& ids) {
  Table table("TEE kernels", {"kernel", "calls", "total, ns", "total"});
  std::vector<BarRow> rows;
  std::string words;
  for (std::size_t i = 0; i < kCountOf<TeeKernel>; ++i) {
    const TeeKernelSnapshot& kernel = report.tee[i];
    const std::string name(name_of(kValuesOf<TeeKernel>[i]));
    table.row(name);
    table.number(fmt::format("{}tee.{}.calls", key, name), kernel.calls);
    table.number(fmt::format("{}tee.{}.total_ns", key, name), kernel.total_ns);
    table.derived(human_time(kernel.total_ns));
    if (kernel.calls == 0) continue;
    rows.push_back({name, {{Series::kKernel, kernel.total_ns}}, human_time(kernel.total_ns)});
    words += fmt::format("{}{} {}", words.empty() ? "" : ", ", name, human_time(kernel.total_ns));
  }
  if (rows.empty()) return {};
  const ChartText text{"TEE kernels", fmt::format("A bar for each kernel: {}.", words)};
  return stacked_bars(ids, text, rows, Unit::kTime) +
         "<p class=\"soft\">Kernels run between the ops; a part may run while an op is under way."
         "</p>\n" +
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
    if (input.trace() != nullptr && !input.trace()->has_times) {
      body += "<p>This trace has no times.</p>\n";
      continue;
    }
    body += side_part(key_of(i), input, ids) + ops_part(key_of(i), input, ids) +
            devices_part(key_of(i), input.ops());
    if (input.stats() != nullptr && input.stats()->side == "tee_runner")
      body += kernels_part(key_of(i), *input.stats(), ids);
  }
  return body;
}

}  // namespace airlock::report
