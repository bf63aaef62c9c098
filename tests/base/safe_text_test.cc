#include "base/safe_text.h"

#include <gtest/gtest.h>

#include <string>

namespace airlock {
namespace {

TEST(SafeText, drives_no_terminal) {
  EXPECT_EQ(without_controls("a\x1b[2Jb\x7f\xc2\x9b\x9b\u00e9\u20ac\xe2", "?"),
            "a?[2Jb????\u00e9\u20ac?");
}

TEST(SafeText, is_utf_8) {
  // Overlong in two, three and four bytes, a surrogate, beyond U+10FFFF, cut off.
  EXPECT_EQ(without_controls("\xc0\xbc \xe0\x9f\xbf \xf0\x8f\xbf\xbf", "?"), "?? ??? ????");
  EXPECT_EQ(without_controls("\xed\xa0\x80 \xf4\x90\x80\x80 \xf0\x9f\x99", "?"), "??? ???? ???");
  for (const char* whole : {"\x7e", "\u00a0", "\u07ff", "\u0800", "\ud7ff", "\ue000", "\uffff",
                            "\U00010000", "\U0010ffff"}) {
    EXPECT_EQ(without_controls(whole, "?"), whole);
    EXPECT_FALSE(has_controls(whole)) << whole;
  }
}

TEST(SafeText, is_read_in_the_order_of_its_bytes) {
  for (const char* turning :
       {"\u061c", "\u200e", "\u200f", "\u202a", "\u202e", "\u2066", "\u2069", "\u2028", "\u2029"}) {
    const std::string text = std::string("a") + turning + "b";
    EXPECT_EQ(without_controls(text, ""), "ab");
    EXPECT_TRUE(has_controls(text));
  }
}

}  // namespace
}  // namespace airlock
