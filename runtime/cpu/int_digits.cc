#include "runtime/cpu/int_digits.h"

#include <algorithm>
#include <utility>

namespace airlock {

namespace {

constexpr std::int32_t kLeastOfOne = -128;
constexpr std::int32_t kMostOfOne = 127;
constexpr std::int32_t kLeastOfTwo = -128 * 256 - 128;
constexpr std::int32_t kMostOfTwo = 127 * 256 + 127;

}  // namespace

int digits_for(std::span<const std::uint32_t> words) {
  std::int32_t least = 0;
  std::int32_t most = 0;
  for (const std::uint32_t word : words) {
    const auto value = static_cast<std::int32_t>(word);
    least = std::min(least, value);
    most = std::max(most, value);
  }
  if (least >= kLeastOfOne && most <= kMostOfOne) return 1;
  return least >= kLeastOfTwo && most <= kMostOfTwo ? 2 : kMostDigits;
}

void split_digits(std::span<const std::uint32_t> words, int digits, std::int8_t* to) {
  for (int digit = 0; digit < digits; ++digit, to += words.size()) {
    const int shift = 8 * digit;
    for (std::size_t i = 0; i < words.size(); ++i) {
      // Less 128, as int8: the highest bit turned over.
      const std::uint32_t byte = ((words[i] + 0x80808080U) >> shift ^ 0x80U) & 0xffU;
      to[i] = static_cast<std::int8_t>(byte);
    }
  }
}

DigitRows::DigitRows(std::vector<std::uint8_t> digits_of_row, std::int64_t least, std::int64_t most)
    : digits(std::move(digits_of_row)) {
  const auto close = [&](Group& group) {
    if (group.rows == 0) return;
    group.digit_rows =
        *std::ranges::lower_bound(kDigitRowCounts, std::max(group.digit_rows, least));
    digit_rows += group.digit_rows;
    groups.push_back(group);
  };
  Group group;
  for (std::size_t row = 0; row < digits.size(); ++row) {
    if (group.digit_rows + digits[row] > most) {
      close(group);
      group = {static_cast<std::int64_t>(row), 0, digit_rows, 0};
    }
    ++group.rows;
    group.digit_rows += digits[row];
  }
  close(group);
}

}  // namespace airlock
