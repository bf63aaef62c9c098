#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "runtime/trace/trace_writer.h"
#include "tests/support/temp_dir.h"
#include "tests/trace/sample_trace.h"
#include "tools/airlock_report/bins.h"
#include "tools/airlock_report/input.h"

namespace airlock::report {
namespace {

using testing::ElementsAre;

std::vector<std::uint64_t> ring_bytes(const Bins& bins) {
  std::vector<std::uint64_t> bytes;
  for (const Bin& bin : bins.bins()) bytes.push_back(bin.bytes[Path::kRing]);
  return bytes;
}

TEST(ReportBins, begin_with_a_bin_for_each_position) {
  Bins bins(4);
  bins.at(0).bytes[Path::kRing] += 1;
  bins.at(3).bytes[Path::kRing] += 2;
  EXPECT_EQ(bins.width(), 1U);
  EXPECT_THAT(ring_bytes(bins), ElementsAre(1, 0, 0, 2));
}

TEST(ReportBins, merge_neighbours_where_a_position_lies_beyond) {
  Bins bins(4);
  for (std::uint64_t i = 0; i < 4; ++i) bins.at(i) = {{{i + 1, 10}}, 1, i};
  bins.at(4).bytes[Path::kRing] += 100;
  EXPECT_EQ(bins.width(), 2U);
  EXPECT_THAT(ring_bytes(bins), ElementsAre(3, 7, 100));
  EXPECT_EQ(bins.bins()[1], (Bin{{{7, 20}}, 2, 3}));
}

TEST(ReportBins, keep_the_last_of_an_odd_number) {
  Bins bins(3);
  for (std::uint64_t i = 0; i < 3; ++i) bins.at(i).bytes[Path::kRing] = i + 1;
  bins.at(5).bytes[Path::kRing] = 9;
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
    bins.at(i * 37).bytes[Path::kRing] += i;
    sum += i;
  }
  std::uint64_t kept = 0;
  for (const std::uint64_t bytes : ring_bytes(bins)) kept += bytes;
  EXPECT_EQ(kept, sum);
  EXPECT_LE(bins.bins().size(), 16U);
  EXPECT_GT(bins.bins().size(), 8U);
}

TEST(ReportBins, count_inputs_at_submit_and_outputs_at_reply) {
  Bins bins(16);
  bins.add(0, 4, sample_record(0, 0, 4, Path::kZmq));
  ASSERT_EQ(bins.bins().size(), 4U);
  EXPECT_EQ(bins.bins()[0], (Bin{{{3072, 0}}, 1, 2}));
  EXPECT_EQ(bins.bins()[3], (Bin{{{0, 0, 1024}}, 0, 0}));
}

TEST(ReportBins, of_passes_hold_one_each_while_they_are_few) {
  PassBins bins(2);
  PassSums pass;
  pass.count = 1;
  for (std::uint64_t i = 1; i <= 3; ++i) {
    pass.rows = i;
    bins.add(pass);
  }
  EXPECT_EQ(bins.width(), 2U);
  ASSERT_EQ(bins.bins().size(), 2U);
  EXPECT_EQ(bins.bins()[0].rows, 3U);
  EXPECT_EQ(bins.bins()[0].count, 2U);
  EXPECT_EQ(bins.bins()[1].rows, 3U);
}

class ReportTrace : public testing::Test {
 protected:
  ReportedTrace read(const std::vector<TraceRecord>& records) {
    const std::string path = dir_.file("t.jsonl");
    auto writer = TraceWriter::create(OutputFile::open(path).value(), sample_header(),
                                      TraceWriter::WhenFull::kWait)
                      .value();
    for (const TraceRecord& record : records) writer->add(record);
    EXPECT_TRUE(writer->close(std::nullopt).ok());
    return read_trace(path, 64).value();
  }

 private:
  TempDir dir_;
};

TEST_F(ReportTrace, goes_by_time_up_to_the_last_end) {
  const ReportedTrace trace = read({sample_record(0, 10, 30), sample_record(1, 200, 5)});
  EXPECT_TRUE(trace.has_times());
  EXPECT_EQ(trace.wall_ns(), 205U);
  EXPECT_EQ(trace.bins.width(), 4U);
  EXPECT_EQ(trace.bins.bins().size(), 52U);
}

TEST_F(ReportTrace, goes_by_number_where_nothing_was_timed) {
  const ReportedTrace trace = read({sample_record(0, 0, 0), sample_record(1, 0, 0)});
  EXPECT_FALSE(trace.has_times());
  EXPECT_THAT(ring_bytes(trace.bins), ElementsAre(4096, 4096));
}

}  // namespace
}  // namespace airlock::report
