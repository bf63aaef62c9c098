#include <fmt/format.h>

#include "runtime/stats/report.h"
#include "runtime/text/table.h"

namespace airlock {
namespace {

/// The table under an empty line; nothing for a table without rows.
std::string section(const Table& table) { return table.empty() ? "" : '\n' + table.aligned(); }

Cell mib(std::uint64_t bytes) { return Cell::real(static_cast<double>(bytes) / (1 << 20), 2); }
Cell ms(std::uint64_t ns) { return Cell::ms(ns, 2); }
Cell us(std::uint64_t ns) { return Cell::real(static_cast<double>(ns) / 1e3, 1); }

void add_direction(Table& table, Path path, const char* name, const DirectionSnapshot& direction) {
  if (direction == DirectionSnapshot{}) return;
  table.add({name_of(path), name, direction.messages, direction.tensors, mib(direction.bytes)});
}

std::string paths_text(const TransportSnapshot& transport) {
  Table traffic({left("path"), left("direction"), "messages", "tensors", "MiB"});
  Table waits({left("path"), "p50 us", "p90 us", "p99 us", "max us", "slot waits", "spins", "parks",
               "errors"});
  for (const Path path : kPaths) {
    const PathSnapshot& stats = transport[path];
    add_direction(traffic, path, "sent", stats.sent);
    add_direction(traffic, path, "received", stats.received);
    if (stats == PathSnapshot{}) continue;
    const HistogramSnapshot& latency = stats.latency_ns;
    const bool timed = latency.count() > 0;
    const auto cell = [timed](std::uint64_t ns) { return timed ? us(ns) : Cell(); };
    waits.add({name_of(path), cell(latency.percentile(0.5)), cell(latency.percentile(0.9)),
               cell(latency.percentile(0.99)), cell(latency.max), stats.slot_waits, stats.spins,
               stats.parks, stats.errors});
  }
  if (traffic.empty() && waits.empty()) return "\nno message crossed\n";
  return section(traffic) + section(waits);
}

std::string ops_text(const OpSnapshotTable& ops) {
  Table table({left("op"), "calls", "total ms", "tee ms", "wire ms", "queue ms", "server ms"});
  for (const Op op : kOps) {
    const auto& [calls, times] = ops[op];
    if (calls == 0) continue;
    Cells row = {name_of(op), calls};
    visit_times([&row](std::string_view, std::uint64_t ns) { row.push_back(ms(ns)); }, times);
    table.add(std::move(row));
  }
  return section(table);
}

std::string devices_text(const OpSnapshotTable& ops) {
  Table table({left("device"), "copy in ms", "compute ms", "copy out ms"});
  for (const Op op : kOps) {
    const DeviceTimes& device = ops[op].times.device;
    if (device == DeviceTimes{}) continue;
    table.add({name_of(op), ms(device.copy_in_ns), ms(device.compute_ns), ms(device.copy_out_ns)});
  }
  return section(table);
}

std::string tee_text(const TeeSnapshotTable& tee) {
  Table table({left("tee"), "calls", "total ms"});
  for (const TeeKernel kernel : kValuesOf<TeeKernel>) {
    const TeeKernelSnapshot& sums = tee[kernel];
    if (sums.calls != 0) table.add({name_of(kernel), sums.calls, ms(sums.total_ns)});
  }
  return section(table);
}

std::string sessions_text(const std::vector<SessionReport>& sessions) {
  Table table({left("session"), left("client"), "calls", "received MiB", "sent MiB", "errors",
               "server ms"});
  for (const SessionReport& session : sessions) {
    PathSnapshot all;
    for (const PathSnapshot& path : session.transport) merge(all, path);
    OpSnapshot ops;
    for (const OpSnapshot& op : session.ops) merge(ops, op);
    const std::string older =
        session.sessions > 1 ? fmt::format(" and {} older", session.sessions - 1) : std::string();
    table.add({session.id + older, session.client, ops.calls, mib(all.received.bytes),
               mib(all.sent.bytes), all.errors, ms(ops.times.server_ns)});
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
