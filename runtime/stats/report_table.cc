#include <fmt/format.h>

#include <algorithm>

#include "runtime/stats/report.h"

namespace airlock {
namespace {

/// Rows of cells in aligned columns: the first `left_count` to the left, figures to the right.
class TextTable {
 public:
  TextTable(std::size_t left_count, std::vector<std::string> head) : left_count_(left_count) {
    rows_.push_back(std::move(head));
  }
  void add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }
  bool empty() const { return rows_.size() == 1; }

  std::string text() const {
    std::vector<std::size_t> widths(rows_[0].size(), 0);
    for (const auto& row : rows_) {
      for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
    }
    std::string text;
    for (const auto& row : rows_) {
      std::string line;
      for (std::size_t i = 0; i < row.size(); ++i) {
        if (i > 0) line += "  ";
        line += i < left_count_ ? fmt::format("{:<{}}", row[i], widths[i])
                                : fmt::format("{:>{}}", row[i], widths[i]);
      }
      line.erase(line.find_last_not_of(' ') + 1);
      text += line + "\n";
    }
    return text;
  }

 private:
  std::size_t left_count_;
  std::vector<std::vector<std::string>> rows_;
};

/// The table under an empty line; nothing for a table without rows.
std::string section(const TextTable& table) {
  if (table.empty()) return {};
  std::string text(1, '\n');
  text += table.text();
  return text;
}

std::string mib(std::uint64_t bytes) {
  return fmt::format("{:.2f}", static_cast<double>(bytes) / (1 << 20));
}
std::string ms(std::uint64_t ns) { return fmt::format("{:.2f}", static_cast<double>(ns) / 1e6); }
std::string us(std::uint64_t ns) { return fmt::format("{:.1f}", static_cast<double>(ns) / 1e3); }

void add_direction(TextTable& table, Path path, const char* name,
                   const DirectionSnapshot& direction) {
  if (direction == DirectionSnapshot{}) return;
  table.add({std::string(name_of(path)), name, std::to_string(direction.messages),
             std::to_string(direction.tensors), mib(direction.bytes)});
}

std::string paths_text(const TransportSnapshot& transport) {
  TextTable traffic(2, {"path", "direction", "messages", "tensors", "MiB"});
  TextTable waits(1, {"path", "p50 us", "p90 us", "p99 us", "max us", "slot waits", "spins",
                      "parks", "errors"});
  for (const Path path : kPaths) {
    const PathSnapshot& stats = transport[path];
    add_direction(traffic, path, "sent", stats.sent);
    add_direction(traffic, path, "received", stats.received);
    if (stats == PathSnapshot{}) continue;
    const HistogramSnapshot& latency = stats.latency_ns;
    const bool timed = latency.count() > 0;
    const auto cell = [timed](std::uint64_t ns) { return timed ? us(ns) : "-"; };
    waits.add({std::string(name_of(path)), cell(latency.percentile(0.5)),
               cell(latency.percentile(0.9)), cell(latency.percentile(0.99)), cell(latency.max),
               std::to_string(stats.slot_waits), std::to_string(stats.spins),
               std::to_string(stats.parks), std::to_string(stats.errors)});
  }
  if (traffic.empty() && waits.empty()) return "\nno message crossed\n";
  return section(traffic) + section(waits);
}

std::string ops_text(const OpSnapshotTable& ops) {
  TextTable table(1, {"op", "calls", "total ms", "tee ms", "wire ms", "queue ms", "server ms"});
  for (const Op op : kOps) {
    const auto& [calls, times] = ops[op];
    if (calls == 0) continue;
    table.add({std::string(name_of(op)), std::to_string(calls), ms(times.total_ns),
               ms(times.tee_ns), ms(times.wire_ns), ms(times.queue_ns), ms(times.server_ns)});
  }
  return section(table);
}

std::string devices_text(const OpSnapshotTable& ops) {
  TextTable table(1, {"device", "copy in ms", "compute ms", "copy out ms"});
  for (const Op op : kOps) {
    const DeviceTimes& device = ops[op].times.device;
    if (device == DeviceTimes{}) continue;
    table.add({std::string(name_of(op)), ms(device.copy_in_ns), ms(device.compute_ns),
               ms(device.copy_out_ns)});
  }
  return section(table);
}

std::string tee_text(const TeeSnapshotTable& tee) {
  TextTable table(1, {"tee", "calls", "total ms"});
  for (const TeeKernel kernel : kValuesOf<TeeKernel>) {
    const TeeKernelSnapshot& stats = tee[kernel];
    if (stats.calls == 0) continue;
    table.add({std::string(name_of(kernel)), std::to_string(stats.calls), ms(stats.total_ns)});
  }
  return section(table);
}

std::string sessions_text(const std::vector<SessionReport>& sessions) {
  TextTable table(
      2, {"session", "client", "calls", "received MiB", "sent MiB", "errors", "server ms"});
  for (const SessionReport& session : sessions) {
    PathSnapshot all;
    for (const PathSnapshot& path : session.transport) merge(all, path);
    OpSnapshot ops;
    for (const OpSnapshot& op : session.ops) merge(ops, op);
    const std::string older =
        session.sessions > 1 ? fmt::format(" and {} older", session.sessions - 1) : std::string();
    table.add({session.id + older, session.client, std::to_string(ops.calls),
               mib(all.received.bytes), mib(all.sent.bytes), std::to_string(all.errors),
               ms(ops.times.server_ns)});
  }
  return section(table);
}

}  // namespace

std::string report_table(const SideReport& report) {
  std::string text = fmt::format("{}: {:.3f} s on {} ({}, {} cores), device {}\n", report.side,
                                 static_cast<double>(report.wall_ns) / 1e9, report.host.name,
                                 report.host.cpu, report.host.cores, report.host.device);
  text += paths_text(report.transport);
  text += ops_text(report.ops);
  text += devices_text(report.ops);
  text += tee_text(report.tee);
  text += sessions_text(report.sessions);
  return text;
}

}  // namespace airlock
