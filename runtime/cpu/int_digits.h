#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

/// Words mod 2^32 as balanced int8 digits: a word is d0 + 2^8 d1 + 2^16 d2 + 2^24 d3 (mod 2^32),
/// each from -128 to 127. Internal to runtime/cpu.
namespace airlock {

inline constexpr int kMostDigits = 4;

/// Digits that every word of a row needs, read as int32: 1 where all lie in -128..127, 2 in
/// -32896..32639, else 4.
int digits_for(std::span<const std::uint32_t> words);
/// The lowest `digits` digits of each word: to [digits, words], lowest first.
void split_digits(std::span<const std::uint32_t> words, int digits, std::int8_t* to);

/// The numbers of rows of digits that one call multiplies: few, so that few sizes of products are
/// made, and each can be tried beforehand. In order; the last is the most.
inline constexpr auto kDigitRowCounts = std::to_array<std::int64_t>(
    {1, 2, 4, 8, 16, 32, 48, 64, 80, 96, 112, 128, 144, 160, 176, 192, 208, 224, 240, 256});

/// How rows of words lie as rows of digits: a word's row is as many rows of digits, one behind the
/// other, and some of them make a group, whose rows one call multiplies.
struct DigitRows {
  struct Group {
    std::int64_t first_row = 0;
    std::int64_t rows = 0;
    // Its first row of digits, and their number: one of kDigitRowCounts. What is behind the last
    // digit means nothing.
    std::int64_t first_digit_row = 0;
    std::int64_t digit_rows = 0;
  };

  /// No group has fewer rows of digits than `least` or more than `most`, two of kDigitRowCounts.
  DigitRows(std::vector<std::uint8_t> digits_of_row, std::int64_t least, std::int64_t most);

  std::vector<std::uint8_t> digits;
  std::vector<Group> groups;
  std::int64_t digit_rows = 0;  // of all groups
};

}  // namespace airlock
