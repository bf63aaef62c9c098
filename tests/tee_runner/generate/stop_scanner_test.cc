#include "tee_runner/generate/stop_scanner.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

namespace airlock {
namespace {

StopScanner scanner(std::vector<std::string> stops) {
  return StopScanner::create(std::move(stops)).value();
}

TEST(StopScanner, gives_out_at_once_what_begins_no_stop_string) {
  StopScanner scan = scanner({"END"});
  EXPECT_EQ(scan.feed("a b"), "a b");
  EXPECT_EQ(scan.feed("c"), "c");
  EXPECT_EQ(scan.finish(), "");
  EXPECT_FALSE(scan.stopped());
}

TEST(StopScanner, holds_back_what_may_begin_one_until_it_is_known) {
  StopScanner scan = scanner({"END"});
  EXPECT_EQ(scan.feed("aE"), "a");
  EXPECT_EQ(scan.feed("N"), "");
  EXPECT_EQ(scan.feed("E"), "EN");
  EXPECT_EQ(scan.feed("N"), "");
  EXPECT_EQ(scan.feed("Dx"), "");
  EXPECT_TRUE(scan.stopped());
  EXPECT_EQ(scan.feed("more"), "");
  EXPECT_EQ(scan.finish(), "");
}

TEST(StopScanner, gives_out_at_the_end_what_it_held) {
  StopScanner scan = scanner({"END"});
  EXPECT_EQ(scan.feed("aEN"), "a");
  EXPECT_EQ(scan.finish(), "EN");
  EXPECT_FALSE(scan.stopped());
}

TEST(StopScanner, the_one_that_begins_first_ends_the_text) {
  StopScanner both = scanner({"c", "bcd"});
  EXPECT_EQ(both.feed("abc"), "a");  // "bcd" may still come
  EXPECT_FALSE(both.stopped());
  EXPECT_EQ(both.feed("d"), "");
  EXPECT_TRUE(both.stopped());

  StopScanner shorter = scanner({"c", "bcd"});
  EXPECT_EQ(shorter.feed("abc"), "a");
  EXPECT_EQ(shorter.feed("x"), "b");
  EXPECT_TRUE(shorter.stopped());

  StopScanner cut = scanner({"c", "bcd"});
  EXPECT_EQ(cut.feed("abc"), "a");
  EXPECT_EQ(cut.finish(), "b");
  EXPECT_TRUE(cut.stopped());
}

TEST(StopScanner, never_cuts_a_character) {
  StopScanner scan = scanner({"\u65e5\u672c"});
  EXPECT_EQ(scan.feed("a\xf0\x9f"), "a");
  EXPECT_EQ(scan.feed("\x99\x82\xe6"), "\U0001f642");
  EXPECT_EQ(scan.feed("\x97\xa5"), "");
  EXPECT_EQ(scan.feed("!\xc3"), "\u65e5!");
  EXPECT_EQ(scan.finish(), "\xc3");  // nothing was lost
}

TEST(StopScanner, without_any_all_is_given_out) {
  StopScanner scan = scanner({});
  EXPECT_EQ(scan.feed("a\n"), "a\n");
  EXPECT_EQ(scan.feed("\x80\xff"), "\x80");
  EXPECT_EQ(scan.finish(), "\xff");
}

TEST(StopScanner, refuses_what_is_beyond_its_limits) {
  const auto message = [](std::vector<std::string> stops) {
    const auto made = StopScanner::create(std::move(stops));
    EXPECT_EQ(made.status().code(), StatusCode::kInvalidInput);
    return made.status().message();
  };
  EXPECT_EQ(message({"a", ""}), "a stop string of 0 bytes, expected 1 to 256");
  EXPECT_EQ(message({std::string(257, 'x')}), "a stop string of 257 bytes, expected 1 to 256");
  EXPECT_EQ(message(std::vector<std::string>(17, "x")), "17 stop strings, expected at most 16");
  EXPECT_TRUE(StopScanner::create(std::vector<std::string>(16, std::string(256, 'x'))).ok());
}

bool is_utf8_begin(char c) { return (static_cast<unsigned char>(c) & 0xc0U) != 0x80U; }

RC_GTEST_PROP(StopScannerProperty, is_a_search_in_the_whole_text_however_it_is_cut, ()) {
  // Few letters, so that stop strings come, begin and lie in each other.
  const auto letters = rc::gen::elementOf(std::vector<std::string>{"a", "b", "\u00e9", "\u65e5"});
  const auto join = [](const std::vector<std::string>& parts) {
    std::string text;
    for (const std::string& part : parts) text += part;
    return text;
  };
  const auto words = rc::gen::container<std::vector<std::string>>(letters);
  std::vector<std::string> stops;
  for (int i = *rc::gen::inRange(0, 4); i > 0; --i)
    stops.push_back(join(*rc::gen::resize(4, rc::gen::nonEmpty(words))));
  const std::string text = join(*words);

  std::size_t end = text.size();
  for (const std::string& stop : stops) end = std::min(end, text.find(stop));

  StopScanner scan = scanner(stops);
  std::string out;
  for (std::size_t at = 0; at < text.size();) {
    const auto bytes = *rc::gen::inRange<std::size_t>(1, 6);
    const std::string given = scan.feed(std::string_view(text).substr(at, bytes));
    RC_ASSERT(given.empty() || is_utf8_begin(given[0]));
    out += given;
    at += bytes;
  }
  out += scan.finish();
  RC_ASSERT(out == text.substr(0, end));
  RC_ASSERT(scan.stopped() == (end < text.size()));
}

}  // namespace
}  // namespace airlock
