// The device's elements of int8 rows are those of base/int8_rows.h to the bit, wherever a row's
// last block ends.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "base/int8_rows.h"
#include "gpu_server/cuda/elements.h"

namespace airlock::cuda {
namespace {

constexpr std::int64_t kRows = 3;
constexpr std::int64_t kPitchMore = 5;

/// Blocks of all sizes of numbers, and of zeros, NaN and infinity.
std::vector<float> numbers(std::int64_t pitch) {
  std::vector<float> values(static_cast<std::size_t>(kRows * pitch));
  for (std::size_t i = 0; i < values.size(); ++i) {
    const auto at = static_cast<float>(i);
    values[i] = std::sin(at * at) * std::exp2(std::fmod(at, 17.0F) - 8);
    if (i % static_cast<std::size_t>(pitch) < 32 && i / static_cast<std::size_t>(pitch) == 1)
      values[i] = 0;
  }
  values.back() = std::numeric_limits<float>::infinity();
  values[static_cast<std::size_t>(2 * pitch)] = std::numeric_limits<float>::quiet_NaN();
  return values;
}

class Int8Elements : public ::testing::TestWithParam<std::int64_t> {};

TEST_P(Int8Elements, AreTheRowsOfTheCpu) {
  const std::int64_t columns = GetParam();
  const auto width = static_cast<std::size_t>(columns);
  const auto row_bytes = static_cast<std::size_t>(wire_columns(DType::kI8, columns));
  for (const std::int64_t pitch : {columns, columns + kPitchMore}) {
    const std::vector<float> values = numbers(pitch);
    std::vector<std::uint8_t> rows(kRows * row_bytes, 0xaa);
    const RoundRows round{.in = values.data(),
                          .in_pitch = pitch,
                          .out = rows.data(),
                          .rows = kRows,
                          .columns = columns};
    for (std::int64_t i = 0; i < round.count(); ++i) round_block(round, i);
    std::vector<float> back(kRows * width);
    const WidenRows widen{.in = rows.data(),
                          .out = back.data(),
                          .to = DType::kF32,
                          .rows = kRows,
                          .columns = columns};
    for (std::int64_t i = 0; i < widen.count(); ++i) widen_element(widen, i);

    for (std::size_t row = 0; row < kRows; ++row) {
      std::vector<std::byte> want(row_bytes);
      store_int8_row(values.data() + row * static_cast<std::size_t>(pitch), width, want.data());
      std::vector<float> want_back(width);
      load_int8_row(want.data(), width, want_back.data());
      for (std::size_t i = 0; i < row_bytes; ++i)
        EXPECT_EQ(static_cast<std::byte>(rows[row * row_bytes + i]), want[i]) << row << ", " << i;
      for (std::size_t i = 0; i < width; ++i) {
        const float got = back[row * width + i];
        const bool same =
            std::bit_cast<std::uint32_t>(got) == std::bit_cast<std::uint32_t>(want_back[i]);
        EXPECT_TRUE(same || (std::isnan(got) && std::isnan(want_back[i]))) << row << ", " << i;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Widths, Int8Elements, ::testing::Values(1, 31, 32, 33, 63, 64, 65, 576));

}  // namespace
}  // namespace airlock::cuda
