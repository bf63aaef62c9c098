#include "runtime/exact/int8_rule.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

namespace airlock {
namespace {

using ::testing::ElementsAre;
using Doubles = std::vector<double>;

/// Of columns whose rms is 1, so that p is the ratio.
std::vector<std::int8_t> exponents_of(const Doubles& ratios) {
  return int8_rule::column_exponents(ratios, Doubles(ratios.size(), 4.0), 4);
}

TEST(Int8Rule, AnExponentIsRoundedToTheNearestAndAHalfUp) {
  // Half the binary logarithm: 0, 0.5, just below it, -0.5, just below it, 1.
  const double half_up = 2;
  const double half_down = 0.5;
  const double below = std::nextafter(half_up, 0.0);
  const double under = std::nextafter(half_down, 0.0);
  // Their mean is 0.
  EXPECT_THAT(exponents_of({1, half_up, below, half_down, under, 1}),
              ElementsAre(0, 1, 0, 0, -1, 0));
}

TEST(Int8Rule, TheMeanIsTakenOffRounded) {
  // 2 and 3: 2.5 rounds to 3.
  EXPECT_THAT(exponents_of({16, 64}), ElementsAre(-1, 0));
  // -2 and -3: -2.5 rounds to -2.
  EXPECT_THAT(exponents_of({1.0 / 16, 1.0 / 64}), ElementsAre(0, -1));
}

TEST(Int8Rule, AColumnOfNothingDoesNotCountInTheMean) {
  const Doubles sizes = {16, 0, 16, 16};
  const Doubles squares = {4, 4, 0, 4};
  // Two columns of 2 have the mean 2, and those of nothing lie as far below.
  EXPECT_THAT(int8_rule::column_exponents(sizes, squares, 4), ElementsAre(0, -2, -2, 0));
  EXPECT_THAT(int8_rule::column_exponents(Doubles{0, 0}, Doubles{1, 1}, 1), ElementsAre(0, 0));
}

TEST(Int8Rule, ARatioThatIsNotFiniteCountsAsNothing) {
  const double tiny = std::numeric_limits<double>::denorm_min();
  EXPECT_THAT(int8_rule::column_exponents(Doubles{1e300, 1}, Doubles{tiny, 1}, 1),
              ElementsAre(0, 0));
}

TEST(Int8Rule, ExponentsStayWithinThirty) {
  EXPECT_THAT(exponents_of({0x1p200, 0x1p-200}), ElementsAre(30, -30));
}

TEST(Int8Rule, RoundingTakesTiesToTheEvenAndStaysInRange) {
  const std::vector<float> row = {0.5F, 1.5F, 2.5F, -0.5F, -1.5F, -2.5F, 200.0F, -200.0F};
  const Doubles folds(row.size(), 1.0);
  std::vector<std::int8_t> plane(row.size());
  int8_rule::round_row(row.data(), folds.data(), row.size(), 1.0F, plane.data());
  EXPECT_THAT(plane, ElementsAre(0, 2, 2, 0, -2, -2, 127, -127));
}

TEST(Int8Rule, WhatIsNotFiniteIsTheLargest) {
  const Doubles folds(20, 1.0);
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()}) {
    std::vector<float> row(20, 1.0F);
    row[13] = bad;
    EXPECT_FALSE(std::isfinite(int8_rule::largest(row.data(), folds.data(), row.size())));
  }
}

TEST(Int8Rule, WhatIsNoNumberBecomesSomeInt8) {
  const std::vector<float> row(20, std::numeric_limits<float>::quiet_NaN());
  const Doubles folds(row.size(), 1.0);
  std::vector<std::int8_t> plane(row.size());
  int8_rule::round_row(row.data(), folds.data(), row.size(), 1.0F, plane.data());
  EXPECT_THAT(plane, ::testing::Each(-127));
}

RC_GTEST_PROP(Int8Rule, SumsAreThoseOfOneElementAfterTheOther, ()) {
  const auto rows = *rc::gen::inRange<std::size_t>(0, 20);
  const auto columns = *rc::gen::inRange<std::size_t>(1, 40);
  const auto numbers =
      *rc::gen::container<std::vector<int>>(rows * columns, rc::gen::inRange(-1000000, 1000000));
  std::vector<float> values;
  for (const int number : numbers) values.push_back(static_cast<float>(number) / 3.0F);
  Doubles factors;
  for (std::size_t j = 0; j < columns; ++j) factors.push_back(1.0 / static_cast<double>(j + 3));
  Doubles by_column(columns);
  Doubles by_row(rows);
  Doubles expected_columns(columns);
  Doubles expected_rows(rows);
  for (std::size_t i = 0; i < rows; ++i) {
    double most = 0;
    for (std::size_t j = 0; j < columns; ++j) {
      const auto value = static_cast<double>(values[i * columns + j]);
      const double scaled = value * factors[j];
      expected_columns[j] += value * value;
      expected_rows[i] += scaled * scaled;
      most = std::max(most, std::fabs(scaled));
    }
    RC_ASSERT(int8_rule::largest(values.data() + i * columns, factors.data(), columns) == most);
  }
  int8_rule::add_column_squares(values.data(), rows, columns, columns, by_column.data());
  int8_rule::row_squares(values.data(), rows, columns, factors.data(), by_row.data());
  RC_ASSERT(by_column == expected_columns);
  RC_ASSERT(by_row == expected_rows);
}

TEST(Int8Rule, NormsOfTheLongestRowAreExact) {
  const std::vector<std::int8_t> row(std::size_t{1} << 20, -127);
  const int8_rule::RowNorms norms = int8_rule::norms_of(row.data(), row.size());
  EXPECT_EQ(norms.l1, std::int64_t{127} << 20);
  EXPECT_EQ(norms.l2_squared, std::int64_t{127 * 127} << 20);
  EXPECT_EQ(norms.most, 127);
}

}  // namespace
}  // namespace airlock
