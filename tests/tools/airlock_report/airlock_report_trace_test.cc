#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "tests/tools/airlock_report/samples.h"
#include "tools/airlock_report/bins.h"
#include "tools/airlock_report/trace_summary.h"

namespace airlock::report {
namespace {

using testing::ElementsAre;

TraceSummary summary_of(const std::vector<TraceRecord>& records, SummaryLimits limits = {}) {
  TraceSummarizer summarizer(sample_header(), limits);
  for (const TraceRecord& record : records) summarizer.add(record);
  return summarizer.finish({});
}

std::vector<std::uint64_t> ring_bytes(const Bins& bins) {
  std::vector<std::uint64_t> bytes;
  for (const Bin& bin : bins.bins()) bytes.push_back(bin.ring_bytes);
  return bytes;
}

TEST(ReportBins, begin_with_a_bin_for_each_position) {
  Bins bins(4);
  bins.at(0).ring_bytes += 1;
  bins.at(3).ring_bytes += 2;
  EXPECT_EQ(bins.width(), 1U);
  EXPECT_THAT(ring_bytes(bins), ElementsAre(1, 0, 0, 2));
}

TEST(ReportBins, merge_neighbours_where_a_position_lies_beyond) {
  Bins bins(4);
  for (std::uint64_t i = 0; i < 4; ++i) bins.at(i) = {i + 1, 10, 1, i};
  bins.at(4).ring_bytes += 100;
  EXPECT_EQ(bins.width(), 2U);
  EXPECT_THAT(ring_bytes(bins), ElementsAre(3, 7, 100));
  EXPECT_EQ(bins.bins()[1], (Bin{7, 20, 2, 3}));
}

TEST(ReportBins, keep_the_last_of_an_odd_number) {
  Bins bins(3);
  for (std::uint64_t i = 0; i < 3; ++i) bins.at(i).ring_bytes = i + 1;
  bins.at(5).ring_bytes = 9;
  EXPECT_THAT(ring_bytes(bins), ElementsAre(3, 3, 9));
}

TEST(ReportBins, take_the_greatest_position) {
  Bins bins(2);
  bins.at(7).ops = 1;
  bins.at(UINT64_MAX).ops += 1;
  EXPECT_EQ(bins.width(), std::uint64_t{1} << 63);
  EXPECT_EQ(bins.bins()[0].ops, 1U);
  EXPECT_EQ(bins.bins()[1].ops, 1U);
}

TEST(ReportBins, lose_nothing) {
  Bins bins(16);
  std::uint64_t sum = 0;
  for (std::uint64_t i = 0; i < 100'000; ++i) {
    bins.at(i * 37).ring_bytes += i;
    sum += i;
  }
  std::uint64_t kept = 0;
  for (const std::uint64_t bytes : ring_bytes(bins)) kept += bytes;
  EXPECT_EQ(kept, sum);
  EXPECT_LE(bins.bins().size(), 16U);
  EXPECT_GT(bins.bins().size(), 8U);
}

TEST(ReportTrace, counts_inputs_at_submit_and_outputs_at_reply) {
  const TraceSummary summary = summary_of({sample_record(0, 0, 4, Path::kZmq)});
  ASSERT_EQ(summary.bins.bins().size(), 4U);
  EXPECT_EQ(summary.bins.bins()[0], (Bin{3072, 0, 1, 2}));
  EXPECT_EQ(summary.bins.bins()[3], (Bin{0, 1024, 0, 0}));
}

TEST(ReportTrace, books_each_tensor_on_its_path_and_the_op_on_the_slowest) {
  const TraceSummary summary =
      summary_of({sample_record(0, 0, 100, Path::kZmq), sample_record(1, 200, 50)});
  EXPECT_EQ(summary.paths[Path::kRing].input_bytes, 2U * 3072);
  EXPECT_EQ(summary.paths[Path::kRing].output_bytes, 1024U);
  EXPECT_EQ(summary.paths[Path::kZmq].output_tensors, 1U);
  EXPECT_EQ(summary.paths[Path::kRing].latency_ns.max, 50U);
  EXPECT_EQ(summary.paths[Path::kZmq].latency_ns.max, 100U);
  EXPECT_EQ(summary.ops[Op::kMatmul].calls, 2U);
  EXPECT_EQ(summary.ops[Op::kMatmul].times.wire_ns, 150U);
}

TEST(ReportTrace, time_between_ops_counts_overlapping_ops_once) {
  const TraceSummary summary = summary_of({sample_record(0, 10, 30), sample_record(1, 20, 100),
                                           sample_record(2, 50, 10), sample_record(3, 200, 5)});
  EXPECT_EQ(summary.ops_time.busy_ns(), 110U + 5U);  // 10 to 120, 200 to 205
  EXPECT_EQ(summary.wall_ns(), 205U);
  EXPECT_EQ(summary.between_ns(), 80U);  // 120 to 200
}

TEST(ReportTrace, does_not_guess_between_ops_that_are_out_of_order) {
  const TraceSummary summary = summary_of({sample_record(0, 100, 5), sample_record(1, 0, 5)});
  EXPECT_FALSE(summary.ops_time.in_order());
  EXPECT_EQ(summary.between_ns(), std::nullopt);
}

TEST(ReportTrace, does_not_know_what_lay_between_ops_that_an_import_laid_out) {
  TraceHeader header = sample_header();
  header.source = TraceSource::kImported;
  TraceSummarizer without(header, {});
  without.add(sample_record(0, 0, 10));
  EXPECT_EQ(without.finish({}).between_ns(), std::nullopt);
  header.wall_ns = 30;
  TraceSummarizer with(header, {});
  with.add(sample_record(0, 0, 10));
  EXPECT_EQ(with.finish({}).between_ns(), 20U);
}

TEST(ReportTrace, goes_by_number_where_nothing_was_timed) {
  const TraceSummary summary = summary_of({sample_record(0, 0, 0), sample_record(1, 0, 0)});
  EXPECT_FALSE(summary.has_times);
  EXPECT_THAT(ring_bytes(summary.bins), ElementsAre(4096, 4096));
  EXPECT_EQ(summary.paths[Path::kRing].latency_ns.count(), 0U);
  EXPECT_TRUE(summary.by_time.empty());
}

TEST(ReportTrace, keeps_the_biggest_ops_only) {
  std::vector<TraceRecord> records;
  for (std::uint64_t i = 0; i < 1000; ++i)
    records.push_back(sample_record(i, i * 5000, (i * 7919) % 1000));
  const TraceSummary summary = summary_of(records, {64, 3});
  std::vector<std::uint64_t> times;
  for (const BigOp& op : summary.by_time) times.push_back(op.record.total_ns);
  EXPECT_THAT(times, ElementsAre(999, 998, 997));
  ASSERT_EQ(summary.by_bytes.size(), 3U);  // the same bytes: the longest of them
  EXPECT_EQ(summary.by_bytes[0].record.total_ns, 999U);
  EXPECT_LE(summary.bins.bins().size(), 64U);
}

TEST(ReportTrace, sums_saturate) {
  std::vector<TraceRecord> records;
  const std::uint64_t year = 366ULL * 24 * 3600 * 1'000'000'000;
  for (std::uint64_t i = 0; i < 700; ++i) records.push_back(sample_record(i, year, year));
  const TraceSummary summary = summary_of(records);
  EXPECT_EQ(summary.ops[Op::kMatmul].times.total_ns, UINT64_MAX);
  EXPECT_EQ(summary.ops_time.busy_ns(), year);
}

}  // namespace
}  // namespace airlock::report
