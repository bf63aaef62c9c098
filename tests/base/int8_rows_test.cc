#include "base/int8_rows.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "base/float_bits.h"

namespace airlock {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

std::size_t bytes_of(std::size_t width) {
  return static_cast<std::size_t>(wire_columns(DType::kI8, static_cast<std::int64_t>(width)));
}

std::vector<std::byte> stored(const std::vector<float>& values) {
  std::vector<std::byte> row(bytes_of(values.size()));
  store_int8_row(values.data(), values.size(), row.data());
  return row;
}

std::vector<float> loaded(const std::vector<std::byte>& row) {
  const std::int64_t width = wire_width(DType::kI8, static_cast<std::int64_t>(row.size()));
  std::vector<float> values(static_cast<std::size_t>(width));
  load_int8_row(row.data(), values.size(), values.data());
  return values;
}

/// Of the block that number `column` of `width` is in.
float scale_of(const std::vector<std::byte>& row, std::size_t width, std::size_t column = 0) {
  const std::size_t begin = column / 32 * 32;
  const std::size_t count = std::min<std::size_t>(32, width - begin);
  std::uint16_t scale = 0;
  std::memcpy(&scale, row.data() + begin / 32 * 34 + count, sizeof(scale));
  return f32_from_bf16(scale);
}

/// Of one block.
std::vector<std::byte> row_of(const std::vector<int>& numbers, float scale) {
  std::vector<std::byte> row;
  for (const int number : numbers)
    row.push_back(static_cast<std::byte>(static_cast<std::int8_t>(number)));
  const auto bits = std::bit_cast<std::uint32_t>(scale);
  for (const int shift : {16, 24}) row.push_back(static_cast<std::byte>(bits >> shift & 0xffU));
  return row;
}

TEST(Int8Rows, AreRoundedToTheNearestMultipleOfTheirBlocksScale) {
  std::mt19937 random(3);
  for (const std::size_t width : {1U, 3U, 16U, 32U, 33U, 63U, 576U, 1000U}) {
    for (const float size : {1e-30F, 1e-3F, 1.0F, 777.0F, 1e37F}) {
      std::normal_distribution<float> normal(0, 1);
      std::vector<float> values(width);
      for (float& value : values) value = size * normal(random);
      values[width / 2] *= 9;  // its block alone is coarser by it
      const std::vector<std::byte> row = stored(values);
      ASSERT_EQ(row.size(), width + (width + 31) / 32 * 2);
      const std::vector<float> back = loaded(row);
      for (std::size_t first = 0; first < width; first += 32) {
        const std::size_t end = std::min(first + 32, width);
        float largest = 0;
        for (std::size_t i = first; i < end; ++i) largest = std::max(largest, std::abs(values[i]));
        const float scale = scale_of(row, width, first);
        EXPECT_GE(scale, largest / 127.0F);
        EXPECT_LE(scale, largest / 127.0F * (1 + 1.0F / 128));
        for (std::size_t i = first; i < end; ++i) {
          EXPECT_NEAR(static_cast<double>(back[i]), static_cast<double>(values[i]),
                      0.50001 * static_cast<double>(scale))
              << i;
        }
      }
    }
  }
}

TEST(Int8Rows, FromABlocksBeginningAreRowsByThemselves) {
  std::vector<float> values(100);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = std::sin(static_cast<float>(i * i));
  const std::vector<std::byte> row = stored(values);
  const auto at = [&](std::int64_t column) { return row.begin() + int8_place(column); };
  EXPECT_EQ(stored({values.begin() + 32, values.begin() + 96}), std::vector(at(32), at(96)));
  EXPECT_EQ(stored({values.begin() + 64, values.end()}), std::vector(at(64), row.end()));
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
  EXPECT_GT(scale_of(stored({1.6e-36F}), 1), 0);
}

TEST(Int8Rows, HaveBlocksThatHoldNanOrInfinityAsNanAsAWhole) {
  for (const float bad : {kNan, -kNan, kInfinity, -kInfinity}) {
    for (const std::size_t place : {0U, 5U, 18U, 31U, 32U, 60U}) {
      std::vector<float> values(61, 127.0F);
      values[place] = bad;
      const std::vector<std::byte> row = stored(values);
      const std::vector<float> back = loaded(row);
      for (std::size_t i = 0; i < values.size(); ++i) {
        const bool is_bad = i / 32 == place / 32;
        EXPECT_EQ(std::isnan(back[i]), is_bad) << i;
        const std::byte number = row[static_cast<std::size_t>(int8_place(static_cast<int>(i)))];
        EXPECT_EQ(number, static_cast<std::byte>(is_bad ? 0 : 127)) << i;
      }
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
  const TensorDesc desc{DType::kI8, Shape{3, 35 + 2 * kScaleBytes}};
  EXPECT_EQ(widened(desc), (TensorDesc{DType::kF32, Shape{3, 35}}));
  Tensor values(widened(desc));
  for (std::size_t i = 0; i < 105; ++i)
    values.as<float>()[i] = std::pow(-1.5F, static_cast<float>(i));
  Tensor rows(desc);
  store_int8_rows(values.view(), rows.mutable_view());
  for (std::size_t row = 0; row < 3; ++row) {
    const auto from = values.as<float>().subspan(row * 35, 35);
    const auto got = rows.view().bytes().subspan(row * 39, 39);
    EXPECT_TRUE(std::ranges::equal(got, stored({from.begin(), from.end()}))) << row;
  }
  Tensor back(widened(desc));
  load_int8_rows(rows.view(), back.mutable_view());
  load_int8_rows(rows_of(rows.view(), 2, 1), rows_of(values.mutable_view(), 2, 1));
  EXPECT_TRUE(std::ranges::equal(back.as<float>().subspan(70), values.as<float>().subspan(70)));
}

TEST(Int8RowsDeathTest, WhoseLastBlockHasNoNumberAreNone) {
  for (const std::int64_t columns : {1, 2, 35, 36, 69, 70})
    EXPECT_DEATH(widened({DType::kI8, Shape{3, columns}}), "CHECK failed") << columns;
}

TEST(WireColumns, AreMoreByTheScalesOfInt8Alone) {
  EXPECT_EQ(wire_columns(DType::kBF16, 64), 64);
  EXPECT_EQ(wire_columns(DType::kI8, 64), 68);
  EXPECT_EQ(wire_columns(DType::kI8, 65), 71);
  EXPECT_EQ(wire_width(DType::kF32, 68), 68);
  for (std::int64_t width = 1; width < 200; ++width)
    EXPECT_EQ(wire_width(DType::kI8, wire_columns(DType::kI8, width)), width);
}

}  // namespace
}  // namespace airlock
