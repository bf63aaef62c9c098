#include "runtime/trace/summary.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "tests/trace/sample_trace.h"

namespace airlock {
namespace {

using ::testing::ElementsAre;

TraceFileSummary summary_of(const std::vector<TraceRecord>& records,
                            const TraceHeader& header = sample_header()) {
  TraceFileSummary summary("t", header);
  for (const TraceRecord& record : records) summary.add(record);
  return summary;
}

TEST(BusyTime, counts_overlapping_spans_once) {
  BusyTime time;
  time.begin(100);
  time.add(150, 250);
  time.add(200, 300);
  time.add(210, 220);
  time.add(400, 500);
  EXPECT_EQ(time.wall_ns(), 400U);
  EXPECT_EQ(time.busy_ns(), 250U);
}

TEST(BusyTime, is_sane_where_a_trace_lies_about_the_order) {
  BusyTime time;
  time.add(1000, 2000);
  time.add(10, 20);
  time.add(0, 3000);
  EXPECT_EQ(time.wall_ns(), 2000U);
  EXPECT_EQ(time.busy_ns(), 2000U);
}

TEST(TraceSummary, books_each_tensor_on_its_path_and_the_op_on_the_slowest) {
  TraceRecord uncrossed = sample_record(2, 300, 7);
  uncrossed.inputs[1].path.reset();
  const TraceSummary summary =
      summary_of({sample_record(0, 0, 100, Path::kZmq), sample_record(1, 200, 50), uncrossed});
  const PathSnapshot& ring = summary.paths[Path::kRing];
  const PathSnapshot& zmq = summary.paths[Path::kZmq];
  EXPECT_EQ(ring.sent.tensors, 5U);
  EXPECT_EQ(ring.sent.bytes, 2U * 3072 + 2048);
  EXPECT_EQ(ring.received.bytes, 2U * 1024);
  EXPECT_EQ(zmq.sent.tensors, 0U);
  EXPECT_EQ(zmq.received.tensors, 1U);
  EXPECT_EQ(summary.uncrossed.sent.bytes, 1024U);
  EXPECT_EQ(ring.latency_ns.count(), 2U);
  EXPECT_EQ(ring.latency_ns.max, 50U);
  EXPECT_EQ(zmq.latency_ns.max, 100U);
}

TEST(TraceSummary, adds_up_each_op_and_all_of_them) {
  TraceRecord other = sample_record(1, 200, 50);
  other.op = Op::kLmHead;
  const TraceSummary summary =
      summary_of({sample_record(0, 0, 100), other, sample_record(2, 300, 7)});
  const OpSums& matmul = summary.ops[Op::kMatmul];
  EXPECT_EQ(matmul.calls, 2U);
  EXPECT_EQ(matmul.times.wire_ns, 107U);
  EXPECT_EQ(matmul.input_bytes, 2U * 3072);
  EXPECT_EQ(matmul.output_bytes, 2U * 1024);
  EXPECT_EQ(matmul.call_ns.max, 100U);
  EXPECT_EQ(summary.ops[Op::kEmbedding].calls, 0U);
  EXPECT_EQ(summary.all.calls, 3U);
  EXPECT_EQ(summary.all.times.total_ns, 157U);
  EXPECT_EQ(summary.all.bytes(), 3U * 4096);
}

TEST(TraceSummary, takes_an_op_as_it_went_another_time) {
  TraceSummary summary;
  OpTimes times;
  times.total_ns = 30;
  times.server_ns = 20;
  times.tee_ns = 10;
  summary.add(sample_record(0, 0, 100), 5000, times);
  EXPECT_EQ(summary.all.times, times);
  EXPECT_EQ(summary.busy.end_ns(), 5030U);
  EXPECT_EQ(summary.paths[Path::kRing].latency_ns.max, 10U);
}

TEST(TraceSummary, merges_everything_but_the_time_under_way) {
  TraceSummary sum = summary_of({sample_record(0, 0, 100)});
  TraceRecord uncrossed = sample_record(1, 0, 50, Path::kZmq);
  uncrossed.inputs[1].path.reset();
  merge(sum, static_cast<const TraceSummary&>(summary_of({uncrossed})));
  EXPECT_EQ(sum.all.calls, 2U);
  EXPECT_EQ(sum.all.call_ns.count(), 2U);
  EXPECT_EQ(sum.ops[Op::kMatmul].times.total_ns, 150U);
  EXPECT_EQ(sum.paths[Path::kZmq].received.bytes, 1024U);
  EXPECT_EQ(sum.uncrossed.sent.tensors, 1U);
  EXPECT_EQ(sum.busy.busy_ns(), 100U);
}

TEST(TraceSummary, sums_saturate) {
  const std::uint64_t year = 366ULL * 24 * 3600 * 1'000'000'000;
  const TraceFileSummary summary =
      summary_of(std::vector<TraceRecord>(700, sample_record(0, year, year)));
  EXPECT_EQ(summary.ops[Op::kMatmul].times.total_ns, UINT64_MAX);
  EXPECT_EQ(summary.busy.busy_ns(), year);
}

TEST(TraceFileSummary, time_between_ops_counts_overlapping_ops_once) {
  const TraceFileSummary summary = summary_of({sample_record(0, 10, 30), sample_record(1, 20, 100),
                                               sample_record(2, 50, 10), sample_record(3, 200, 5)});
  EXPECT_EQ(summary.busy.busy_ns(), 110U + 5U);  // 10 to 120, 200 to 205
  EXPECT_EQ(summary.between_ns(), 80U);          // 120 to 200
}

TEST(TraceFileSummary, does_not_guess_between_ops_that_are_out_of_order) {
  const TraceFileSummary summary = summary_of({sample_record(0, 100, 5), sample_record(1, 0, 5)});
  EXPECT_FALSE(summary.busy.in_order());
  EXPECT_EQ(summary.between_ns(), std::nullopt);
}

TEST(TraceFileSummary, does_not_know_what_lay_between_ops_that_an_import_laid_out) {
  TraceHeader header = sample_header();
  header.source = TraceSource::kImported;
  EXPECT_EQ(summary_of({sample_record(0, 0, 10)}, header).between_ns(), std::nullopt);
  header.wall_ns = 30;
  EXPECT_EQ(summary_of({sample_record(0, 0, 10)}, header).between_ns(), 20U);
}

TEST(TraceFileSummary, knows_whether_anything_was_timed) {
  EXPECT_FALSE(summary_of({sample_record(0, 0, 0), sample_record(1, 0, 0)}).has_times());
  EXPECT_TRUE(summary_of({sample_record(0, 0, 0), sample_record(1, 0, 1)}).has_times());
}

TEST(TraceFileSummary, keeps_the_biggest_ops_only) {
  std::vector<TraceRecord> records;
  for (std::uint64_t i = 0; i < 1000; ++i)
    records.push_back(sample_record(i, i * 5000, (i * 7919) % 1000));
  records[500].inputs.pop_back();
  const TraceFileSummary summary = summary_of(records);
  std::vector<std::uint64_t> times;
  for (const TraceRecord& record : summary.by_time) times.push_back(record.times.total_ns);
  ASSERT_EQ(times.size(), kBigOps);
  for (std::size_t i = 0; i < kBigOps; ++i) EXPECT_EQ(times[i], 999 - i);
  ASSERT_EQ(summary.by_bytes.size(), kBigOps);  // the same bytes: the longest of them
  EXPECT_EQ(summary.by_bytes[0].times.total_ns, 999U);
  std::vector<TraceRecord> equal = {sample_record(3, 0, 5), sample_record(1, 0, 5),
                                    sample_record(2, 0, 5)};
  std::vector<std::uint64_t> seqs;
  for (const TraceRecord& record : summary_of(equal).by_time) seqs.push_back(record.seq);
  EXPECT_THAT(seqs, ElementsAre(1, 2, 3));
}

}  // namespace
}  // namespace airlock
