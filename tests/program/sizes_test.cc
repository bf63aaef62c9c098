#include <gtest/gtest.h>

#include <limits>

#include "runtime/program/command_line.h"

namespace airlock {
namespace {

TEST(ParseSize, reads_binary_suffixes_in_either_case) {
  EXPECT_EQ(parse_size("64"), 64U);
  EXPECT_EQ(parse_size("4K"), 4096U);
  EXPECT_EQ(parse_size("4k"), 4096U);
  EXPECT_EQ(parse_size("128M"), 134217728U);
  EXPECT_EQ(parse_size("4G"), std::uint64_t{4} << 30);
  EXPECT_EQ(parse_size("0"), 0U);
}

TEST(ParseSize, refuses_what_is_no_size) {
  for (const char* text :
       {"", "K", "-1", "+1", "1.5M", "64 ", " 64", "64KB", "0x40", "12T", "1e6"}) {
    EXPECT_EQ(parse_size(text), std::nullopt) << text;
  }
}

TEST(ParseSize, refuses_what_does_not_fit) {
  EXPECT_EQ(parse_size("18446744073709551615"), std::numeric_limits<std::uint64_t>::max());
  EXPECT_EQ(parse_size("18446744073709551616"), std::nullopt);
  EXPECT_EQ(parse_size("17179869184G"), std::nullopt);
}

}  // namespace
}  // namespace airlock
