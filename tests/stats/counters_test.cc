#include <gtest/gtest.h>

#include <array>

#include "runtime/stats/op_stats.h"
#include "runtime/stats/transport_stats.h"

namespace airlock {
namespace {

constexpr PathPolicy kRing{true, 100, 8};

TEST(TransportStats, books_a_message_on_its_header_and_each_tensor_on_its_own_path) {
  TransportStats stats;
  constexpr std::array<std::size_t, 3> kTensorBytes = {10, 1000, 5};
  stats.book_sent(plan_message(kRing, kTensorBytes).value());
  const TransportSnapshot snapshot = snapshot_of(stats);
  EXPECT_EQ(snapshot[Path::kRing].sent, (DirectionSnapshot{1, 2, 15}));
  EXPECT_EQ(snapshot[Path::kZmq].sent, (DirectionSnapshot{0, 1, 1000}));
  EXPECT_EQ(snapshot[Path::kRing].received, DirectionSnapshot{});
}

TEST(TransportStats, books_what_was_received_apart_from_what_was_sent) {
  TransportStats stats;
  stats.book_received(plan_message({}, {}).value());
  const TransportSnapshot snapshot = snapshot_of(stats);
  EXPECT_EQ(snapshot[Path::kZmq].received, (DirectionSnapshot{1, 0, 0}));
  EXPECT_EQ(snapshot[Path::kZmq].sent, DirectionSnapshot{});
}

TEST(TransportStats, snapshot_copies_every_counter) {
  TransportStats stats;
  PathStats& ring = stats[Path::kRing];
  ring.errors = 1;
  ring.slot_waits = 2;
  ring.spins = 3;
  ring.parks = 4;
  ring.latency_ns.record(5);
  const TransportSnapshot snapshot = snapshot_of(stats);
  const PathSnapshot& copy = snapshot[Path::kRing];
  EXPECT_EQ(copy.errors, 1U);
  EXPECT_EQ(copy.slot_waits, 2U);
  EXPECT_EQ(copy.spins, 3U);
  EXPECT_EQ(copy.parks, 4U);
  EXPECT_EQ(copy.latency_ns.max, 5U);
}

TEST(TransportStats, merged_snapshots_add_every_counter) {
  TransportStats stats;
  constexpr std::array<std::size_t, 1> kTensorBytes = {7};
  const MessagePlan plan = plan_message({}, kTensorBytes).value();
  stats.book_sent(plan);
  stats.book_received(plan);
  PathStats& zmq = stats[Path::kZmq];
  zmq.errors = 1;
  zmq.slot_waits = 2;
  zmq.spins = 3;
  zmq.parks = 4;
  zmq.latency_ns.record(5);
  TransportSnapshot sum = snapshot_of(stats);
  merge(sum, stats);
  const PathSnapshot& path = sum[Path::kZmq];
  EXPECT_EQ(path.sent, (DirectionSnapshot{2, 2, 14}));
  EXPECT_EQ(path.received, (DirectionSnapshot{2, 2, 14}));
  EXPECT_EQ(path.errors, 2U);
  EXPECT_EQ(path.slot_waits, 4U);
  EXPECT_EQ(path.spins, 6U);
  EXPECT_EQ(path.parks, 8U);
  EXPECT_EQ(path.latency_ns.count(), 2U);
  EXPECT_EQ(sum[Path::kRing], PathSnapshot{});
}

TEST(OpStats, merged_snapshots_add_every_counter) {
  OpStatsTable table;
  OpStats& ping = table[Op::kPing];
  ping.calls = 1;
  ping.times.total_ns = 14;
  ping.times.tee_ns = 2;
  ping.times.wire_ns = 3;
  ping.times.queue_ns = 4;
  ping.times.server_ns = 5;
  ping.times.device.copy_in_ns = 6;
  ping.times.device.compute_ns = 7;
  ping.times.device.copy_out_ns = 8;
  OpSnapshotTable sum = snapshot_of(table);
  EXPECT_EQ(sum[Op::kPing], (OpSnapshot{1, {14, 2, 3, 4, 5, {6, 7, 8}}}));
  merge(sum, table);
  EXPECT_EQ(sum[Op::kPing], (OpSnapshot{2, {28, 4, 6, 8, 10, {12, 14, 16}}}));
  EXPECT_EQ(sum[Op::kInit], OpSnapshot{});
}

TEST(OpStats, a_table_adds_what_another_one_counted) {
  OpSnapshotTable other;
  other[Op::kMatmul] = {1, {14, 2, 3, 4, 5, {6, 7, 8}}};
  OpStatsTable table;
  merge(table, other);
  EXPECT_EQ(snapshot_of(table), other);
  merge(table, other);
  EXPECT_EQ(snapshot_of(table)[Op::kMatmul], (OpSnapshot{2, {28, 4, 6, 8, 10, {12, 14, 16}}}));
}

TEST(OpStats, merged_snapshots_do_not_wrap) {
  OpSnapshot sum{1, {UINT64_MAX - 1, 2, UINT64_MAX, 3, UINT64_MAX / 2, {UINT64_MAX, 1, 2}}};
  merge(sum, OpSnapshot{1, {5, 2, 1, 3, UINT64_MAX / 2 + 2, {1, 2, UINT64_MAX}}});
  EXPECT_EQ(sum, (OpSnapshot{
                     2, {UINT64_MAX, 4, UINT64_MAX, 6, UINT64_MAX, {UINT64_MAX, 3, UINT64_MAX}}}));
}

TEST(TeeStats, every_kernel_has_its_name_and_its_counters) {
  TeeStatsTable table;
  table[TeeKernel::kSilu].calls = 3;
  table[TeeKernel::kSilu].total_ns = 9;
  EXPECT_EQ(snapshot_of(table)[TeeKernel::kSilu], (TeeKernelSnapshot{3, 9}));
  EXPECT_EQ(name_of(TeeKernel::kRmsNorm), "rmsnorm");
  EXPECT_EQ(name_of(TeeKernel::kAttention), "attention");
}

}  // namespace
}  // namespace airlock
