#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tools/airlock_pool/bench.h"

namespace airlock::pool_tool {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(PoolBench, measures_powers_of_two) {
  EXPECT_THAT(plan_sizes(1024, 8192), ElementsAre(1024, 2048, 4096, 8192));
  EXPECT_THAT(plan_sizes(64, 64), ElementsAre(64));
  EXPECT_EQ(plan_sizes(1024, std::uint64_t{1} << 30).size(), 21U);
}

TEST(PoolBench, an_operand_is_whole_and_its_vector_small) {
  for (const std::uint64_t bytes : plan_sizes(64, std::uint64_t{4} << 30)) {
    const OperandShape shape = operand_shape(bytes);
    EXPECT_EQ(static_cast<std::uint64_t>(shape.rows * shape.columns) * sizeof(float), bytes);
    EXPECT_LE(shape.columns, 2048);
    EXPECT_GE(shape.columns, 4);
  }
  EXPECT_EQ(operand_shape(1024).rows, 16);
}

TEST(PoolBench, a_median_is_of_each_time_by_itself) {
  const Round median = median_of({{1, 9, 3, 5, 7}, {2, 8, 1, 6, 9}, {3, 7, 2, 4, 8}});
  EXPECT_EQ(median.memcpy_ns, 2U);
  EXPECT_EQ(median.copy_ns, 8U);
  EXPECT_EQ(median.wait_ns, 2U);
  EXPECT_EQ(median.compute_ns, 5U);
  EXPECT_EQ(median.total_ns, 8U);
}

TEST(PoolBench, a_row_says_what_was_skipped_and_why) {
  Table table = bench_table();
  table.add(row_of({1024, "pool", 20, {2000, 3000, 4000, 5000, 12000}, ""}));
  table.add(row_of({2048, "", 0, {}, "skipped: needs 2.00 KiB (in), the lease has 0 B in a row"}));
  const std::string text = table.markdown();
  EXPECT_THAT(text, HasSubstr("|       1024 | pool        |"));
  EXPECT_THAT(
      text,
      HasSubstr("|      2.00 |      3.00 |      4.00 |       5.00 |     12.00 |        1.50 |"));
  EXPECT_THAT(text, HasSubstr("| skipped: needs 2.00 KiB (in), the lease has 0 B in a row |"));
  EXPECT_THAT(table.csv(), HasSubstr("2048,,,,,,,,,\"skipped: needs 2.00 KiB (in), the lease"));
}

}  // namespace
}  // namespace airlock::pool_tool
