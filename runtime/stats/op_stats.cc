#include "runtime/stats/op_stats.h"

#include "base/saturating.h"

namespace airlock {

void OpStats::book(const OpTimes& times) {
  constexpr auto relaxed = std::memory_order_relaxed;
  calls.fetch_add(1, relaxed);
  total_ns.fetch_add(times.total_ns, relaxed);
  tee_ns.fetch_add(times.tee_ns, relaxed);
  wire_ns.fetch_add(times.wire_ns, relaxed);
  queue_ns.fetch_add(times.queue_ns, relaxed);
  server_ns.fetch_add(times.server_ns, relaxed);
  device.copy_in_ns.fetch_add(times.device.copy_in_ns, relaxed);
  device.compute_ns.fetch_add(times.device.compute_ns, relaxed);
  device.copy_out_ns.fetch_add(times.device.copy_out_ns, relaxed);
}

void DeviceSnapshot::merge(const DeviceSnapshot& other) {
  copy_in_ns = add_saturating(copy_in_ns, other.copy_in_ns);
  compute_ns = add_saturating(compute_ns, other.compute_ns);
  copy_out_ns = add_saturating(copy_out_ns, other.copy_out_ns);
}

void OpSnapshot::merge(const OpSnapshot& other) {
  calls = add_saturating(calls, other.calls);
  total_ns = add_saturating(total_ns, other.total_ns);
  tee_ns = add_saturating(tee_ns, other.tee_ns);
  wire_ns = add_saturating(wire_ns, other.wire_ns);
  queue_ns = add_saturating(queue_ns, other.queue_ns);
  server_ns = add_saturating(server_ns, other.server_ns);
  device.merge(other.device);
}

void OpSnapshotTable::merge(const OpSnapshotTable& other) {
  for (std::size_t i = 0; i < ops.size(); ++i) ops[i].merge(other.ops[i]);
}

OpSnapshotTable OpStatsTable::snapshot() const {
  const auto read = [](const std::atomic<std::uint64_t>& counter) {
    return counter.load(std::memory_order_relaxed);
  };
  OpSnapshotTable table;
  for (std::size_t i = 0; i < ops.size(); ++i) {
    const OpStats& op = ops[i];
    table.ops[i] = {
        read(op.calls),
        read(op.total_ns),
        read(op.tee_ns),
        read(op.wire_ns),
        read(op.queue_ns),
        read(op.server_ns),
        {read(op.device.copy_in_ns), read(op.device.compute_ns), read(op.device.copy_out_ns)}};
  }
  return table;
}

void OpStatsTable::merge(const OpSnapshotTable& other) {
  constexpr auto relaxed = std::memory_order_relaxed;
  for (std::size_t i = 0; i < ops.size(); ++i) {
    ops[i].calls.fetch_add(other.ops[i].calls, relaxed);
    ops[i].total_ns.fetch_add(other.ops[i].total_ns, relaxed);
    ops[i].tee_ns.fetch_add(other.ops[i].tee_ns, relaxed);
    ops[i].wire_ns.fetch_add(other.ops[i].wire_ns, relaxed);
    ops[i].queue_ns.fetch_add(other.ops[i].queue_ns, relaxed);
    ops[i].server_ns.fetch_add(other.ops[i].server_ns, relaxed);
    ops[i].device.copy_in_ns.fetch_add(other.ops[i].device.copy_in_ns, relaxed);
    ops[i].device.compute_ns.fetch_add(other.ops[i].device.compute_ns, relaxed);
    ops[i].device.copy_out_ns.fetch_add(other.ops[i].device.copy_out_ns, relaxed);
  }
}

OpHistogramSnapshots snapshot_of(const OpHistograms& histograms) {
  OpHistogramSnapshots snapshots;
  for (std::size_t i = 0; i < histograms.size(); ++i) snapshots[i] = histograms[i].snapshot();
  return snapshots;
}

TeeSnapshotTable tee_snapshot(const TeeStatsTable& table) {
  TeeSnapshotTable snapshot;
  for (std::size_t i = 0; i < table.size(); ++i) {
    snapshot[i] = {table[i].calls.load(std::memory_order_relaxed),
                   table[i].total_ns.load(std::memory_order_relaxed)};
  }
  return snapshot;
}

}  // namespace airlock
