#include "tee_runner/privacy/quantise.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "tests/support/golden_otp.h"

namespace airlock {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using testing::read_golden_json;
using testing::read_golden_npy;
using Ints = std::vector<std::int32_t>;

/// A linear of rows of int8, [rows, columns], with the norms that belong to them.
Int8Linear linear_of(const std::vector<std::int8_t>& weights, std::size_t columns) {
  Int8Linear linear;
  linear.columns = static_cast<std::int64_t>(columns);
  linear.weight_rows = {static_cast<std::int64_t>(weights.size() / columns)};
  linear.column_exponents.assign(columns, 0);
  for (std::size_t start = 0; start < weights.size(); start += columns) {
    std::int64_t l1 = 0;
    std::int64_t l2 = 0;
    for (std::size_t j = start; j < start + columns; ++j) {
      const std::int64_t value = weights[j];
      l1 += std::abs(value);
      l2 += value * value;
      linear.most_abs = std::max(linear.most_abs, std::abs(value));
    }
    linear.most_l1 = std::max(linear.most_l1, l1);
    linear.most_l2_squared = std::max(linear.most_l2_squared, l2);
  }
  return linear;
}

std::int64_t largest_product(const Ints& row, const std::vector<std::int8_t>& weights) {
  std::int64_t largest = 0;
  for (std::size_t start = 0; start < weights.size(); start += row.size()) {
    std::int64_t sum = 0;
    for (std::size_t j = 0; j < row.size(); ++j)
      sum += static_cast<std::int64_t>(row[j]) * weights[start + j];
    largest = std::max(largest, std::abs(sum));
  }
  return largest;
}

constexpr std::int64_t kWraps = std::int64_t{1} << 31;

TEST(Quantise, IntegersAreThoseOfTheGoldenVectors) {
  SKIP_WITHOUT_GOLDEN_OTP();
  const auto x = read_golden_npy<float>("quant/x_f32");
  const auto exponents = read_golden_npy<std::int8_t>("quant/col_exp_i8");
  const auto scales = read_golden_npy<float>("quant/scale_f32");
  const auto expected = read_golden_npy<std::int32_t>("quant/x_i32");
  const std::size_t columns = exponents.size();
  ASSERT_EQ(x.size(), scales.size() * columns);
  ASSERT_EQ(expected.size(), x.size());
  Ints got(x.size());
  for (std::size_t row = 0; row < scales.size(); ++row) {
    quantise_at(std::span(x).subspan(row * columns, columns), exponents, scales[row],
                std::span(got).subspan(row * columns, columns));
  }
  EXPECT_EQ(got, expected);
}

TEST(Quantise, BoundsAreThoseOfTheGoldenVectors) {
  SKIP_WITHOUT_GOLDEN_OTP();
  const auto bounds = read_golden_json("bounds.json");
  for (const std::string name : {"a", "b"}) {
    const auto x = read_golden_npy<std::int32_t>(name + "/q32_x_i32");
    const auto weights = read_golden_npy<std::int8_t>(name + "/w_i8");
    const std::size_t columns = read_golden_json(name + "/case.json")["K"];
    const Int8Linear linear = linear_of(weights, columns);
    const auto& expected = bounds[name];
    EXPECT_EQ(linear.most_l1, expected["max_row_l1"]);
    EXPECT_EQ(linear.most_l2_squared, expected["max_row_l2_squared"]);
    for (std::size_t row = 0; row * columns < x.size(); ++row) {
      Ints ints(x.begin() + static_cast<std::ptrdiff_t>(row * columns),
                x.begin() + static_cast<std::ptrdiff_t>((row + 1) * columns));
      EXPECT_EQ(largest_product(ints, weights), expected["rows"][row]["max_abs_y"]);
      EXPECT_TRUE(wraps_nowhere(ints, linear)) << name << " row " << row;
    }
  }
}

// Each of the three at its last number and one beyond it, where the other two prove nothing.
TEST(Quantise, EachBoundHoldsToItsLastNumber) {
  Int8Linear linear;
  linear.columns = 2;
  linear.most_abs = linear.most_l1 = linear.most_l2_squared = std::int64_t{1} << 40;
  const auto holds = [&](std::int32_t a, std::int32_t b) {
    return wraps_nowhere(Ints{a, b}, linear);
  };
  linear.most_l1 = 127;
  EXPECT_TRUE(holds(-16909320, 0));  // times 127: 2^31 - 8
  EXPECT_FALSE(holds(16909321, 0));
  linear.most_l1 = std::int64_t{1} << 40;
  linear.most_abs = 127;
  EXPECT_TRUE(holds(-16909319, 1));
  EXPECT_FALSE(holds(16909319, -2));
  linear.most_abs = std::int64_t{1} << 40;
  linear.most_l2_squared = 1 << 20;
  EXPECT_TRUE(holds((1 << 21) - 1, 0));
  EXPECT_FALSE(holds(-(1 << 21), 0));
  linear.most_l2_squared = std::int64_t{1} << 40;
  EXPECT_FALSE(holds(std::numeric_limits<std::int32_t>::min(), 0));
  EXPECT_TRUE(holds(0, 0));
}

TEST(Quantise, WeightsOfZerosNeverWrap) {
  EXPECT_TRUE(wraps_nowhere(Ints{std::numeric_limits<std::int32_t>::min()}, linear_of({0}, 1)));
}

TEST(Quantise, ARowOfZerosHasTheScaleOne) {
  const Int8Linear linear = linear_of(std::vector<std::int8_t>(40, 127), 20);
  std::vector<float> x(20, 0.0F);
  x[3] = -0.0F;
  Ints out(20, 7);
  const auto scale = quantise_row(x, linear, out);
  ASSERT_TRUE(scale.ok());
  EXPECT_EQ(*scale, 1.0F);
  EXPECT_THAT(out, Each(0));
}

TEST(Quantise, WhatIsNotFiniteIsRefused) {
  Int8Linear linear = linear_of(std::vector<std::int8_t>(40, 127), 20);
  linear.column_exponents[19] = -30;
  for (const std::size_t place : {std::size_t{0}, std::size_t{15}, std::size_t{19}}) {
    for (const float bad :
         {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
          -std::numeric_limits<float>::infinity()}) {
      std::vector<float> x(20, 1.0F);
      x[place] = bad;
      Ints out(20);
      const auto scale = quantise_row(x, linear, out);
      ASSERT_FALSE(scale.ok());
      EXPECT_EQ(scale.status().code(), StatusCode::kInternal);
      EXPECT_EQ(scale.status().message(), "activations are not finite");
    }
  }
  // Finite, and no longer so where its column is unfolded.
  std::vector<float> x(20, 1.0F);
  x[19] = 0x1p100F;
  Ints out(20);
  EXPECT_EQ(quantise_row(x, linear, out).status().message(), "activations are not finite");
}

TEST(Quantise, ColumnsAreUnfolded) {
  Int8Linear linear = linear_of(std::vector<std::int8_t>(4, 1), 4);
  linear.column_exponents = {3, -2, 0, -30};
  Ints out(4);
  const auto scale = quantise_row(std::vector<float>{8, 0.25F, -1, 0x1p-30F}, linear, out);
  ASSERT_TRUE(scale.ok());
  // x' is 1 in each place, so s is 1 / 512.
  EXPECT_EQ(*scale, 1.0F / 512.0F);
  EXPECT_THAT(out, ElementsAre(512, 512, -512, 512));
}

TEST(Quantise, WithTwoPlanesAMeanHasMoreUnits) {
  Int8Linear linear = linear_of(std::vector<std::int8_t>(4, 1), 4);
  linear.planes = 2;
  Ints out(4);
  const auto scale = quantise_row(std::vector<float>{1, -1, 2, 0}, linear, out);
  ASSERT_TRUE(scale.ok());
  EXPECT_EQ(*scale, 1.0F / 4096.0F);
  EXPECT_THAT(out, ElementsAre(4096, -4096, 8192, 0));
}

// Weights of zeros bound nothing; one value among so many is all of their mean.
TEST(Quantise, AnIntegerFitsWhateverTheWeightsAre) {
  const std::size_t columns = std::size_t{1} << 20;
  Int8Linear linear = linear_of(std::vector<std::int8_t>(columns), columns);
  std::vector<float> x(columns);
  x[columns / 2] = -3;
  Ints out(columns);
  for (const std::uint8_t planes : {std::uint8_t{1}, std::uint8_t{2}}) {
    linear.planes = planes;
    ASSERT_TRUE(quantise_row(x, linear, out).ok());
    EXPECT_EQ(out[columns / 2], -(1 << (planes == 1 ? 29 : 30)));
  }
}

/// Rows as they are and as nobody wants them.
rc::Gen<std::vector<float>> rows_of(std::size_t columns) {
  const auto value = rc::gen::map(rc::gen::arbitrary<std::int32_t>(), [](std::int32_t bits) {
    return static_cast<float>(bits) / 65536.0F;
  });
  const auto any_size = rc::gen::apply(
      [](std::int32_t bits, int power) {
        return std::ldexp(static_cast<float>(bits) / 65536.0F, power);
      },
      rc::gen::arbitrary<std::int32_t>(), rc::gen::inRange(-140, 80));
  const auto rare = rc::gen::weightedOneOf<float>(
      {{20, rc::gen::just(0.0F)}, {1, any_size}, {1, rc::gen::just(0x1.fffffep+96F)}});
  const auto equal =
      rc::gen::map(any_size, [columns](float each) { return std::vector<float>(columns, each); });
  return rc::gen::oneOf(rc::gen::container<std::vector<float>>(columns, value),
                        rc::gen::container<std::vector<float>>(columns, any_size),
                        rc::gen::container<std::vector<float>>(columns, rare), equal);
}

/// Rows of weights of which the first two are the worst for `x`: of its signs, and all at its
/// largest element.
std::vector<std::int8_t> weights_against(const std::vector<float>& x) {
  const std::size_t columns = x.size();
  const int most = *rc::gen::inRange(1, 128);
  std::vector<std::int8_t> weights(2 * columns);
  const auto size = [](float a, float b) { return std::fabs(a) < std::fabs(b); };
  const auto peak =
      static_cast<std::size_t>(std::max_element(x.begin(), x.end(), size) - x.begin());
  for (std::size_t j = 0; j < columns; ++j)
    weights[j] = static_cast<std::int8_t>(x[j] < 0 ? -most : most);
  weights[columns + peak] = static_cast<std::int8_t>(x[peak] < 0 ? -127 : 127);
  const auto others = *rc::gen::container<std::vector<std::int8_t>>(
      3 * columns, rc::gen::inRange<std::int8_t>(-127, 127));
  weights.insert(weights.end(), others.begin(), others.end());
  // Without the worst rows too: the norms are others then.
  if (*rc::gen::inRange(0, 3) == 0)
    weights.erase(weights.begin(), weights.begin() + static_cast<std::ptrdiff_t>(columns));
  return weights;
}

RC_GTEST_PROP(Quantise, NoSumReachesTwoToThe31, ()) {
  const auto columns = *rc::gen::elementOf(std::vector<std::size_t>{1, 2, 15, 16, 17, 100, 3000});
  const auto x = *rows_of(columns);
  const auto weights = weights_against(x);
  Int8Linear linear = linear_of(weights, columns);
  for (std::int8_t& exponent : linear.column_exponents)
    exponent = static_cast<std::int8_t>(*rc::gen::inRange(-3, 4));
  linear.planes = *rc::gen::element<std::uint8_t>(1, 2);
  Ints out(columns);
  const auto scale = quantise_row(x, linear, out);
  RC_ASSERT(scale.ok());
  RC_ASSERT(wraps_nowhere(out, linear));
  RC_ASSERT(largest_product(out, weights) < kWraps);
}

/// A row so long that its mean alone does not keep the sums small: 33025 columns and more of 127
/// times 512. All of one size but every `odd`th, of two signs.
std::vector<float> long_row(std::size_t columns, std::size_t odd, float other) {
  std::vector<float> x(columns, 3.0F);
  for (std::size_t j = 0; j < columns; j += odd) x[j] = other;
  for (std::size_t j = 0; j < columns; j += 3) x[j] = -x[j];
  return x;
}

TEST(Quantise, NoSumOfALongRowReachesTwoToThe31) {
  std::size_t beyond_the_mean = 0;
  for (const std::size_t columns :
       {std::size_t{33025}, std::size_t{33100}, std::size_t{40000}, std::size_t{1} << 17}) {
    for (const float other : {3.0F, -2.0F, 0.0F, 1000.0F, 1e6F}) {
      for (const std::size_t odd : {std::size_t{1} << 20, std::size_t{7}, std::size_t{999}}) {
        const std::vector<float> x = long_row(columns, odd, other);
        std::vector<std::int8_t> weights;
        for (const float value : x) weights.push_back(value < 0 ? -127 : 127);
        const Int8Linear linear = linear_of(weights, columns);
        Ints out(columns);
        const auto scale = quantise_row(x, linear, out);
        ASSERT_TRUE(scale.ok());
        ASSERT_LT(largest_product(out, weights), kWraps) << columns << " " << other << " " << odd;
        double sum = 0;
        for (const float value : x) sum += std::fabs(static_cast<double>(value));
        const double mean = sum / static_cast<double>(columns) / 512;
        beyond_the_mean += static_cast<double>(*scale) > mean * 1.0001 ? 1U : 0U;
      }
    }
  }
  // Else this would not test what it is for.
  EXPECT_GE(beyond_the_mean, 20U);
}

/// The scale, one step after the other; 0: a row of zeros.
float naive_scale(const std::vector<float>& x, const Int8Linear& linear) {
  double lanes[2][16] = {};
  double most = 0;
  const auto columns = static_cast<double>(x.size());
  for (std::size_t j = 0; j < x.size(); ++j) {
    const auto value =
        static_cast<double>(std::fabs(std::ldexp(x[j], -linear.column_exponents[j])));
    lanes[0][j % 16] += value;
    lanes[1][j % 16] += value * value;
    most = std::max(most, value);
  }
  double l1 = 0;
  double l2 = 0;
  for (std::size_t lane = 0; lane < 16; ++lane) {
    l1 += lanes[0][lane];
    l2 += lanes[1][lane];
  }
  const double bound =
      std::min({most / (0x1p31 / static_cast<double>(linear.most_l1) - 0.5),
                std::sqrt(l2) / (0x1p31 / std::sqrt(static_cast<double>(linear.most_l2_squared)) -
                                 0.5 * std::sqrt(columns)),
                l1 / (0x1p31 / static_cast<double>(linear.most_abs) - 0.5 * columns)});
  const double units = linear.planes == 2 ? 4096 : 512;
  const double mean = static_cast<double>(static_cast<float>(l1 / columns / units));
  const double wanted = std::max({mean, bound, most / 0x1p30});
  auto scale = static_cast<float>(wanted);
  if (static_cast<double>(scale) < wanted)
    scale = std::nextafter(scale, std::numeric_limits<float>::infinity());
  return most == 0 ? 0 : std::max(scale, std::numeric_limits<float>::min());
}

RC_GTEST_PROP(Quantise, TheScaleIsTheRulesAndTheIntegersAreTheNearest, ()) {
  const auto columns = *rc::gen::elementOf(std::vector<std::size_t>{1, 16, 17, 100});
  const auto x = *rows_of(columns);
  Int8Linear linear = linear_of(weights_against(x), columns);
  // As of so many columns' weights: the bounds matter then.
  const std::int64_t times = *rc::gen::elementOf(std::vector<std::int64_t>{1, 1 << 12, 1 << 15});
  linear.most_l1 *= times;
  linear.most_l2_squared *= times * times;
  linear.most_abs *= times;
  linear.planes = *rc::gen::element<std::uint8_t>(1, 2);
  Ints out(columns);
  const auto scale = quantise_row(x, linear, out);
  RC_ASSERT(scale.ok());
  const float naive = naive_scale(x, linear);
  RC_PRE(naive > 0);
  // Where the proof fails for a hair, the next tries are a millionth and some more.
  RC_ASSERT(*scale >= naive && *scale <= naive * (1 + 0x1p-18F));
  Ints expected(columns);
  for (std::size_t j = 0; j < columns; ++j) {
    const float inverse = 1.0F / *scale;
    expected[j] = static_cast<std::int32_t>(std::nearbyint(x[j] * inverse));
  }
  RC_ASSERT(out == expected);
}

TEST(Quantise, FloatsAreThoseOfTheGoldenVectors) {
  SKIP_WITHOUT_GOLDEN_OTP();
  for (const std::string name : {"a", "b"}) {
    const auto sums = read_golden_npy<std::int32_t>(name + "/q32_y_i32");
    const auto scales = read_golden_npy<float>(name + "/w_scale_f32");
    const auto row_scales = read_golden_npy<float>(name + "/x_scale_f32");
    const auto expected = read_golden_npy<float>(name + "/q32_y_f32");
    const std::size_t rows = scales.size();
    ASSERT_EQ(sums.size(), row_scales.size() * rows);
    std::vector<float> got(sums.size());
    for (std::size_t row = 0; row < row_scales.size(); ++row) {
      dequantise_row(std::span(sums).subspan(row * rows, rows), {}, row_scales[row], scales,
                     std::span(got).subspan(row * rows, rows));
    }
    EXPECT_EQ(got, expected);
  }
}

TEST(Quantise, TwoPlanesAreAddedBeforeTheyAreRounded) {
  const Ints first = {1, -3, 16777217, 2147483647, 0};
  const Ints second = {127, -254, 127, 2147483647, 1};
  const std::vector<float> scales = {1, 0.5F, 1, 2, 0x1p-10F};
  std::vector<float> out(5);
  dequantise_row(first, second, 2.0F, scales, out);
  for (std::size_t i = 0; i < out.size(); ++i) {
    const double sum = static_cast<double>(first[i]) + static_cast<double>(second[i]) / 254.0;
    EXPECT_EQ(out[i], static_cast<float>(sum) * (2.0F * scales[i])) << i;
  }
  // 16777217 alone would be 16777216.
  EXPECT_EQ(out[2], 2.0F * 16777218.0F);
}

}  // namespace
}  // namespace airlock
