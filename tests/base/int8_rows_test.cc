#include "base/int8_rows.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

namespace airlock {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

std::vector<std::byte> stored(const std::vector<float>& values) {
  std::vector<std::byte> row(values.size() + kScaleBytes);
  store_int8_row(values.data(), values.size(), row.data());
  return row;
}

std::vector<float> loaded(const std::vector<std::byte>& row) {
  std::vector<float> values(row.size() - kScaleBytes);
  load_int8_row(row.data(), values.size(), values.data());
  return values;
}

float scale_of(const std::vector<std::byte>& row) {
  float scale = 0;
  std::memcpy(&scale, row.data() + row.size() - kScaleBytes, sizeof(scale));
  return scale;
}

std::vector<std::byte> row_of(const std::vector<int>& numbers, float scale) {
  std::vector<std::byte> row(numbers.size() + kScaleBytes);
  for (std::size_t i = 0; i < numbers.size(); ++i)
    row[i] = static_cast<std::byte>(static_cast<std::int8_t>(numbers[i]));
  std::memcpy(row.data() + numbers.size(), &scale, sizeof(scale));
  return row;
}

TEST(Int8Rows, AreRoundedToTheNearestMultipleOfTheLargestOver127) {
  std::mt19937 random(3);
  for (const std::size_t width : {1U, 3U, 16U, 63U, 576U, 1000U}) {
    for (const float size : {1e-30F, 1e-3F, 1.0F, 777.0F, 1e37F}) {
      std::normal_distribution<float> normal(0, 1);
      std::vector<float> values(width);
      for (float& value : values) value = size * normal(random);
      const std::vector<std::byte> row = stored(values);
      const std::vector<float> back = loaded(row);
      float largest = 0;
      for (const float value : values) largest = std::max(largest, std::abs(value));
      EXPECT_EQ(scale_of(row), largest / 127.0F);
      const double half = 0.50001 * static_cast<double>(largest) / 127;
      for (std::size_t i = 0; i < width; ++i)
        EXPECT_NEAR(static_cast<double>(back[i]), static_cast<double>(values[i]), half) << i;
    }
  }
}

// The rule by bits against the library's, for every kind of product that rounding meets.
TEST(Int8Rows, RoundToNearestEven) {
  for (int quarter = -127 * 64; quarter <= 127 * 64; ++quarter) {
    const float value = static_cast<float>(quarter) / 64.0F;
    EXPECT_EQ(static_cast<float>(round_to_int8(value, 1)), std::nearbyint(value)) << value;
    const float up = std::nextafter(value, kInfinity);
    EXPECT_EQ(static_cast<float>(round_to_int8(up, 1)), std::nearbyint(up)) << up;
    const float down = std::nextafter(value, -kInfinity);
    EXPECT_EQ(static_cast<float>(round_to_int8(down, 1)), std::nearbyint(down)) << down;
  }
  for (const float tiny : {0.0F, -0.0F, 1e-45F, -1e-45F, 1e-38F, -1e-10F, 0.2499999F})
    EXPECT_EQ(round_to_int8(tiny, 1), 0) << tiny;
  EXPECT_EQ(round_to_int8(127.00001F, 1), 127);
  static_assert(round_to_int8(-2.5F, 1) == -2 && round_to_int8(3.5F, 1) == 4);
}

TEST(Int8Rows, OfZerosAndOfAlmostNothingAreZeros) {
  for (const float nothing : {0.0F, 1e-45F, -1e-38F, 1.4e-36F}) {
    const std::vector<std::byte> row = stored({nothing, -nothing, 0});
    EXPECT_EQ(row, row_of({0, 0, 0}, 0)) << nothing;
  }
  EXPECT_GT(scale_of(stored({1.6e-36F})), 0);
}

TEST(Int8Rows, ThatHoldNanOrInfinityAreNanAsAWhole) {
  for (const float bad : {kNan, -kNan, kInfinity, -kInfinity}) {
    for (const std::size_t place : {0U, 5U, 18U}) {
      std::vector<float> values(19, 2.5F);
      values[place] = bad;
      const std::vector<std::byte> row = stored(values);
      EXPECT_EQ(std::vector(row.begin(), row.end() - kScaleBytes), std::vector<std::byte>(19));
      for (const float value : loaded(row)) EXPECT_TRUE(std::isnan(value));
    }
  }
  EXPECT_TRUE(std::isfinite(loaded(stored({std::numeric_limits<float>::max(), 1}))[1]));
}

// What a peer may send: any scale, and -128.
TEST(Int8Rows, OfAPeerAreNumbersWhateverTheyAre) {
  EXPECT_EQ(loaded(row_of({-128, 127, 1}, -0.5F)), (std::vector<float>{64, -63.5F, -0.5F}));
  const std::vector<float> far = loaded(row_of({-128, 0, 1}, kInfinity));
  EXPECT_EQ(far[0], -kInfinity);
  EXPECT_TRUE(std::isnan(far[1]));
  for (const float value : loaded(row_of({-128, 0, 1}, kNan))) EXPECT_TRUE(std::isnan(value));
}

TEST(Int8Rows, OfATensorAreRoundedEachByItself) {
  const TensorDesc desc{DType::kI8, Shape{3, 5 + kScaleBytes}};
  EXPECT_EQ(widened(desc), (TensorDesc{DType::kF32, Shape{3, 5}}));
  Tensor values(widened(desc));
  for (std::size_t i = 0; i < 15; ++i)
    values.as<float>()[i] = std::pow(-3.0F, static_cast<float>(i));
  Tensor rows(desc);
  store_int8_rows(values.view(), rows.mutable_view());
  for (std::size_t row = 0; row < 3; ++row) {
    const auto from = values.as<float>().subspan(row * 5, 5);
    const auto got = rows.view().bytes().subspan(row * 9, 9);
    EXPECT_TRUE(std::ranges::equal(got, stored({from.begin(), from.end()}))) << row;
  }
  Tensor back(widened(desc));
  load_int8_rows(rows.view(), back.mutable_view());
  load_int8_rows(rows_of(rows.view(), 2, 1), rows_of(values.mutable_view(), 2, 1));
  EXPECT_TRUE(std::ranges::equal(back.as<float>().subspan(10), values.as<float>().subspan(10)));
}

TEST(WireColumns, AreMoreByTheScaleOfInt8Alone) {
  EXPECT_EQ(wire_columns(DType::kBF16, 64), 64);
  EXPECT_EQ(wire_columns(DType::kI8, 64), 68);
  EXPECT_EQ(wire_width(DType::kI8, 68), 64);
  EXPECT_EQ(wire_width(DType::kF32, 68), 68);
}

}  // namespace
}  // namespace airlock
