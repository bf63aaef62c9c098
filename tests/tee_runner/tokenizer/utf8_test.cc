#include "tee_runner/tokenizer/utf8.h"

#include <gtest/gtest.h>

#include <string>

namespace airlock {
namespace {

TEST(Utf8, that_is_whole_stays_as_it_is) {
  const std::string text =
      "a\0é\u20ac\U0001f600"
      "\u007f";
  EXPECT_EQ(repaired_utf8(text), text);
}

/// What Python gives for bytes.decode("utf-8", "replace").
TEST(Utf8, is_repaired_as_python_repairs_it) {
  const std::string r(kReplacementCharacter);
  EXPECT_EQ(repaired_utf8("a\xff\xfe"), "a" + r + r);
  EXPECT_EQ(repaired_utf8("\x80"), r);
  EXPECT_EQ(repaired_utf8("\xc0\x80"), r + r);          // overlong
  EXPECT_EQ(repaired_utf8("\xe0\x80\x80"), r + r + r);  // overlong
  EXPECT_EQ(repaired_utf8("\xed\xa0\x80"), r + r + r);  // a surrogate
  EXPECT_EQ(repaired_utf8("\xf4\x90\x80\x80"), r + r + r + r);
  EXPECT_EQ(repaired_utf8("\xe2\x82"), r);
  EXPECT_EQ(repaired_utf8("\xe2\x82z"), r + "z");
  EXPECT_EQ(repaired_utf8("\xf0\x9f\x98\xe2\x82\xac"), r + "\u20ac");
}

TEST(Utf8, keeps_the_beginning_of_a_character_while_more_comes) {
  std::string out;
  EXPECT_EQ(append_utf8("ab\xe2\x82", TextEnd::kMoreComes, out), 2U);
  EXPECT_EQ(out, "ab");
  EXPECT_EQ(append_utf8("\xe2\x82\xac", TextEnd::kMoreComes, out), 3U);
  EXPECT_EQ(out, "ab\u20ac");
  EXPECT_EQ(append_utf8("\xe2z", TextEnd::kMoreComes, out), 2U);
  EXPECT_EQ(out, "ab\u20ac" + std::string(kReplacementCharacter) + "z");
}

TEST(Utf8, characters_are_read_and_written) {
  for (const char32_t code : {0x0, 0x41, 0x7f, 0x80, 0x7ff, 0x800, 0xffff, 0x10000, 0x10ffff}) {
    std::string text;
    append_character(text, code);
    const Character character = first_character(text + "z");
    EXPECT_EQ(character.code, code);
    EXPECT_EQ(character.bytes, text.size());
    EXPECT_EQ(last_character_at("a" + text), 1U);
  }
}

}  // namespace
}  // namespace airlock
