#include "tee_runner/tokenizer/split_pattern.h"

#include <gtest/gtest.h>

#include <chrono>
#include <string>
#include <vector>

#include "tee_runner/tokenizer/regex.h"

namespace airlock {
namespace {

std::vector<std::string> matches(std::string_view pattern, std::string_view text) {
  const auto translated = translate_split_pattern(pattern);
  if (!translated.ok()) return {"refused: " + translated.status().message()};
  const auto regex = Regex::compile(*translated);
  if (!regex.ok()) return {"no pattern: " + regex.status().message()};
  std::vector<std::string> found;
  Regex::Search search(*regex, Deadline::after(std::chrono::minutes(5)));
  search.start(text);
  while (true) {
    const auto next = search.next();
    if (!next.ok()) return {"gave up: " + next.status().message()};
    if (!*next) return found;
    found.emplace_back((*next)->of(text));
  }
}
using Found = std::vector<std::string>;

TEST(SplitPattern, of_gpt2_and_llama3_find_words) {
  EXPECT_EQ(
      matches(R"('s|'t| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)", "it's  12 a!\n "),
      (Found{"it", "'s", " ", " 12", " a", "!", "\n "}));
  EXPECT_EQ(matches(R"((?i:'s|'t)|\p{N}{1,3})", "'S't1234"), (Found{"'S", "'t", "123", "4"}));
}

TEST(SplitPattern, white_space_is_unicodes) {
  EXPECT_EQ(matches(R"(\s)", "\u00a0\u180e\u3000\u200b\u0085"),
            (Found{"\u00a0", "\u3000", "\u0085"}));
  EXPECT_EQ(matches(R"(\S)", "\u00a0\u180e\u3000"), (Found{"\u180e"}));
  EXPECT_EQ(matches(R"([\S]+)", "a\u180e\u3000b"), (Found{"a\u180e", "b"}));
}

TEST(SplitPattern, knows_characters_of_unicode_16) {
  EXPECT_EQ(matches(R"(\p{L}+)", "\U00031350 \ua7da"), (Found{"\U00031350", "\ua7da"}));
  EXPECT_EQ(matches(R"(\P{L})", "\U00031350 "), (Found{" "}));
}

TEST(SplitPattern, classes_ranges_and_escapes) {
  EXPECT_EQ(matches(R"([a-c\-\]x-]+)", "ab-]x^d"), (Found{"ab-]x"}));
  EXPECT_EQ(matches(R"([^\u0041\x42\x{1F600}]+)", "ABz\U0001f600"), (Found{"z"}));
  EXPECT_EQ(matches(R"(\p{^L}+|\P{Lu})", "a1A"), (Found{"a", "1"}));
  EXPECT_EQ(matches("a{,2}b|a{2}c|{|}", "aabaac{"), (Found{"aab", "aac", "{"}));
  EXPECT_EQ(matches("x*+y|(?<=z)q|(?<!z)q|^b$", "xxyzqq\nb"), (Found{"xxy", "q", "q", "b"}));
}

TEST(SplitPattern, empty_matches_do_not_repeat) {
  EXPECT_EQ(matches("a*", "baa"), (Found{"", "aa"}));
  EXPECT_EQ(matches("$", "a\nb"), (Found{"", ""}));
}

TEST(SplitPattern, that_means_something_else_to_pcre2_is_refused) {
  for (const char* pattern :
       {R"(\h)",    R"(\b)",         R"(\R)",   R"(\X)",     R"(\Z)",        R"(\1)",
        R"(\k<a>)", "(?<a>x)",       "(?m:x)",  "(?i)x",     "[[:alpha:]]",  "[a&&b]",
        "[a[b]]",   "[]a]",          "[z-a]",   R"([\s-x])", R"(\p{Greek})", R"(\pL)",
        "a**",      "a{2}+",         "a{2}?",   "*a",        "a|*",          "[a",
        R"(a\)",    R"(\x{110000})", R"(\xff)", R"(\ud800)", R"([\W])",      "(?#x)",
        "(?",       "a{99999}"}) {
    const auto translated = translate_split_pattern(pattern);
    ASSERT_FALSE(translated.ok()) << pattern;
    EXPECT_NE(translated.status().message().find("at byte"), std::string::npos)
        << translated.status().message();
  }
}

TEST(SplitPattern, that_is_none_is_refused) {
  for (const char* pattern : {"(a", "a)", "(?<=a*)b"}) {
    const auto translated = translate_split_pattern(pattern);
    ASSERT_TRUE(translated.ok()) << pattern;
    EXPECT_FALSE(Regex::compile(*translated).ok()) << pattern;
  }
}

TEST(SplitPattern, that_takes_too_many_steps_gives_up) {
  EXPECT_EQ(matches("(a|a)*[cd]", std::string(64, 'a')).at(0).substr(0, 7), "gave up");
}

TEST(SplitPattern, that_takes_too_long_gives_up) {
  // Without a deadline: quadratic in one call of the library.
  const std::string text(1U << 20U, ' ');
  const auto regex = Regex::compile("\\x{20}*x");
  ASSERT_TRUE(regex.ok());
  Regex::Search search(*regex, Deadline::now());
  search.start(text);
  const auto found = search.next();
  ASSERT_FALSE(found.ok());
  EXPECT_EQ(found.status().code(), StatusCode::kInvalidInput);
}

TEST(SplitPattern, group_may_repeat_as_often_as_a_text_has_letters) {
  const std::string text(1U << 20U, 'a');
  EXPECT_EQ(matches("(?:a|b)+c?", text), Found{text});
}

TEST(SplitPattern, finds_what_is_far_away) {
  const std::string far = std::string(10000, 'b') + "\u20ac\u20ac" + std::string(1000, 'b');
  EXPECT_EQ(matches("\u20ac", far), (Found{"\u20ac", "\u20ac"}));
  for (const std::size_t bytes : {254, 255, 256, 257, 258, 259})
    EXPECT_EQ(matches("(?<=\u20ac)a|$", std::string(bytes, 'b') + "\u20aca"), (Found{"a"}));
}

TEST(SplitPattern, literal_is_taken_by_its_characters) {
  const auto regex = Regex::compile(literal_pattern("a.*é["));
  ASSERT_TRUE(regex.ok());
  Regex::Search search(*regex, Deadline::after(std::chrono::minutes(5)));
  search.start("a.*é[a");
  const auto found = search.next();
  ASSERT_TRUE(found.ok() && *found);
  EXPECT_EQ((*found)->end, 6U);
}

}  // namespace
}  // namespace airlock
