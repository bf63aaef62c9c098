#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "tools/airlock_xfer/plan.h"

namespace airlock::xfer {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::vector<std::size_t> sizes_of(const SizeRange& range) { return plan_sizes(range).value(); }

TEST(SizeText, uses_the_largest_unit) {
  EXPECT_EQ(size_text(64), "64 B");
  EXPECT_EQ(size_text(65536), "64 KiB");
  EXPECT_EQ(size_text(10485760 + 4096), "10.004 MiB");
  EXPECT_EQ(size_text(std::uint64_t{2} << 30), "2 GiB");
}

TEST(PlanSizes, grow_by_factor_up_to_the_end) {
  EXPECT_THAT(sizes_of({64, 1000, 2, 0, 1 << 20}), ElementsAre(64, 128, 256, 512));
  EXPECT_THAT(sizes_of({64, 512, 2, 0, 1 << 20}), ElementsAre(64, 128, 256, 512));
}

TEST(PlanSizes, grow_by_step) {
  EXPECT_THAT(sizes_of({100, 350, 2, 100, 1 << 20}), ElementsAre(100, 200, 300));
}

TEST(PlanSizes, grow_by_at_least_one_byte) {
  EXPECT_THAT(sizes_of({1, 4, 1.01, 0, 1 << 20}), ElementsAre(1, 2, 3, 4));
}

TEST(PlanSizes, have_the_limit_and_its_neighbours) {
  EXPECT_THAT(sizes_of({16384, 262144, 4, 0, 100000}),
              ElementsAre(16384, 65536, 95904, 100000, 104096, 262144));
}

TEST(PlanSizes, have_each_size_once) {
  EXPECT_THAT(sizes_of({32768, 65536, 2, 0, 65536}), ElementsAre(32768, 61440, 65536));
}

TEST(PlanSizes, leave_out_neighbours_beyond_the_range) {
  EXPECT_THAT(sizes_of({65536, 65536, 2, 0, 65536}), ElementsAre(65536));
  EXPECT_THAT(sizes_of({64, 64, 2, 0, 4096}), ElementsAre(64));
  EXPECT_THAT(sizes_of({1, 1, 2, 0, 4096}), ElementsAre(1));
}

TEST(PlanSizes, may_be_one_size) { EXPECT_THAT(sizes_of({7, 7, 2, 0, 1 << 20}), ElementsAre(7)); }

TEST(PlanSizes, reach_the_largest_tensor) {
  const std::size_t most = std::size_t{4} << 30;
  EXPECT_THAT(sizes_of({most / 2, most, 2, 0, 4096}), ElementsAre(most / 2, most));
}

TEST(PlanSizes, refuse_a_range_that_is_empty_or_does_not_grow) {
  const auto refusal = [](const SizeRange& range) {
    const auto sizes = plan_sizes(range);
    EXPECT_EQ(sizes.status().code(), StatusCode::kUsage);
    return sizes.status().message();
  };
  EXPECT_THAT(refusal({65, 64, 2, 0, 4096}), HasSubstr("-b 65 is more than -e 64"));
  EXPECT_THAT(refusal({0, 64, 2, 0, 4096}), HasSubstr("-b 0"));
  EXPECT_THAT(refusal({64, 128, 1, 0, 4096}), HasSubstr("-f 1"));
  EXPECT_THAT(refusal({64, 128, 0.5, 0, 4096}), HasSubstr("-f 0.5"));
  EXPECT_THAT(refusal({64, 128, -2, 0, 4096}), HasSubstr("-f -2"));
  EXPECT_THAT(refusal({64, 128, std::numeric_limits<double>::quiet_NaN(), 0, 4096}),
              HasSubstr("-f nan"));
  EXPECT_THAT(refusal({64, (std::size_t{4} << 30) + 1, 2, 0, 4096}), HasSubstr("4 GiB"));
  EXPECT_THAT(refusal({1, 1 << 20, 2, 1, 4096}), HasSubstr("more than 1024 sizes"));
}

TEST(PlanSizes, end_with_an_infinite_factor) {
  EXPECT_THAT(sizes_of({64, 128, std::numeric_limits<double>::infinity(), 0, 4096}),
              ElementsAre(64));
}

}  // namespace
}  // namespace airlock::xfer
