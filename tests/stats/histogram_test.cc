#include "runtime/stats/histogram.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <random>
#include <thread>
#include <vector>

namespace airlock {
namespace {

TEST(Histogram, is_all_zero_when_empty) {
  const Histogram histogram;
  EXPECT_EQ(histogram.count(), 0U);
  EXPECT_EQ(histogram.max, 0U);
  EXPECT_EQ(histogram.percentile(0.5), 0U);
  EXPECT_TRUE(histogram.buckets().empty());
}

TEST(Histogram, keeps_small_values_exactly) {
  Histogram histogram;
  for (std::uint64_t value = 0; value < 16; ++value) histogram.record(value);
  const auto buckets = histogram.buckets();
  ASSERT_EQ(buckets.size(), 16U);
  for (std::uint64_t value = 0; value < 16; ++value)
    EXPECT_EQ(buckets[value], std::make_pair(value, std::uint64_t{1}));
}

TEST(Histogram, holds_every_value_within_an_eighth) {
  std::mt19937_64 random(1);
  for (int i = 0; i < 20000; ++i) {
    const std::uint64_t value = random() >> (random() % 64);
    Histogram histogram;
    histogram.record(value);
    const auto buckets = histogram.buckets();
    ASSERT_EQ(buckets.size(), 1U);
    ASSERT_GE(buckets[0].first, value);
    ASSERT_LE(buckets[0].first - value, value / 8) << value;
  }
}

TEST(Histogram, takes_the_greatest_number_there_is) {
  Histogram histogram;
  histogram.record(UINT64_MAX);
  EXPECT_EQ(histogram.max, UINT64_MAX);
  EXPECT_EQ(histogram.percentile(1), UINT64_MAX);
  EXPECT_EQ(histogram.buckets(),
            (std::vector<std::pair<std::uint64_t, std::uint64_t>>{{UINT64_MAX, 1}}));
}

TEST(Histogram, orders_its_buckets_by_value) {
  Histogram histogram;
  for (std::uint64_t bit = 0; bit < 64; ++bit) {
    for (std::uint64_t part = 8; part < 16; ++part) histogram.record((part << bit) >> 3);
  }
  const auto buckets = histogram.buckets();
  EXPECT_TRUE(std::is_sorted(buckets.begin(), buckets.end()));
}

TEST(Histogram, gives_percentiles_by_rank) {
  Histogram histogram;
  for (std::uint64_t value = 1; value <= 1000; ++value) histogram.record(value);
  EXPECT_EQ(histogram.percentile(1.0), 1000U);
  EXPECT_EQ(histogram.percentile(0.001), 1U);
  EXPECT_GE(histogram.percentile(0.5), 500U);
  EXPECT_LE(histogram.percentile(0.5), 563U);
  EXPECT_GE(histogram.percentile(0.99), 990U);
}

TEST(Histogram, never_gives_a_percentile_above_the_maximum) {
  Histogram histogram;
  histogram.record(1025);
  EXPECT_EQ(histogram.percentile(0.5), 1025U);
}

TEST(Histogram, merges_to_the_same_as_recording_all_in_one) {
  std::mt19937_64 random(2);
  Histogram all;
  Histogram first;
  Histogram second;
  for (int i = 0; i < 1000; ++i) {
    const std::uint64_t value = random() >> (random() % 60);
    all.record(value);
    (i % 3 == 0 ? first : second).record(value);
  }
  HistogramSnapshot merged = first.snapshot();
  merged.merge(second.snapshot());
  EXPECT_EQ(merged, all.snapshot());
  first.merge(second);
  EXPECT_EQ(first.snapshot(), all.snapshot());
}

TEST(Histogram, is_read_while_another_thread_records) {
  Histogram histogram;
  std::thread writer([&histogram] {
    for (std::uint64_t value = 1; value <= 20000; ++value) histogram.record(value);
  });
  std::uint64_t seen = 0;
  while (seen < 20000) {
    const HistogramSnapshot snapshot = histogram.snapshot();
    ASSERT_GE(snapshot.count(), seen);
    seen = snapshot.count();
  }
  writer.join();
  EXPECT_EQ(histogram.count(), 20000U);
}

}  // namespace
}  // namespace airlock
