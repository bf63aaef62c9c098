#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "tools/airlock_xfer/pattern.h"

namespace airlock::xfer {
namespace {

std::vector<std::byte> filled(std::size_t bytes, std::uint64_t seed) {
  std::vector<std::byte> data(bytes);
  fill_pattern(data, seed);
  return data;
}

TEST(Pattern, of_any_size_is_found_right) {
  for (const std::size_t bytes : {0, 1, 7, 8, 9, 4095, 4096, 4097, 12345}) {
    EXPECT_EQ(count_wrong(filled(bytes, 5), 5), 0U) << bytes;
  }
}

TEST(Pattern, counts_each_wrong_byte_once) {
  auto data = filled(10001, 5);
  for (const std::size_t at : {0, 4095, 4096, 10000}) data[at] ^= std::byte{1};
  EXPECT_EQ(count_wrong(data, 5), 4U);
}

TEST(Pattern, of_another_message_is_almost_all_wrong) {
  const auto data = filled(1 << 16, pattern_seed(1, 1));
  EXPECT_GT(count_wrong(data, pattern_seed(1, 2)), (1U << 16) * 9 / 10);
  EXPECT_GT(count_wrong(data, pattern_seed(2, 1)), (1U << 16) * 9 / 10);
}

TEST(Pattern, shows_words_that_moved) {
  auto data = filled(1 << 16, 5);
  std::ranges::rotate(data, data.begin() + 8);
  EXPECT_GT(count_wrong(data, 5), (1U << 16) * 9 / 10);
}

TEST(Pattern, shows_a_page_that_stayed_zero) {
  auto data = filled(1 << 16, 5);
  std::fill_n(data.begin() + 8192, 4096, std::byte{0});
  EXPECT_GT(count_wrong(data, 5), 4000U);
}

}  // namespace
}  // namespace airlock::xfer
