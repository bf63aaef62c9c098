#include <gtest/gtest.h>

#include <string>

#include "runtime/json/reader.h"

namespace airlock {
namespace {

Json parsed(std::string_view text) {
  const auto json = parse_json(text, "FILE");
  EXPECT_TRUE(json.ok()) << json.status().message();
  return json.ok() ? *json : Json{};
}

void expect_refused(std::string_view text, const std::string& message) {
  const auto json = parse_json(text, "FILE");
  ASSERT_FALSE(json.ok()) << text;
  EXPECT_EQ(json.status().code(), StatusCode::kInvalidInput);
  EXPECT_EQ(json.status().message(), message);
}

TEST(JsonParse, keeps_kinds_values_and_the_order_of_members) {
  const Json json = parsed(R"({"b":[1,-2.5,null],"a":{"x":"\u00e9","y":true}})");
  EXPECT_EQ(json.keys, (std::vector<std::string>{"b", "a"}));
  const Json& list = *json.find("b");
  ASSERT_EQ(list.items.size(), 3U);
  EXPECT_EQ(list.items[0].kind, Json::Kind::kInteger);
  EXPECT_EQ(list.items[0].integer, 1);
  EXPECT_EQ(list.items[1].kind, Json::Kind::kNumber);
  EXPECT_EQ(list.items[1].number, -2.5);
  EXPECT_EQ(list.items[2].kind, Json::Kind::kNull);
  EXPECT_EQ(json.find("a")->find("x")->text, "\xc3\xa9");
  EXPECT_TRUE(json.find("a")->find("y")->boolean);
  EXPECT_EQ(json.find("c"), nullptr);
  EXPECT_EQ(list.find("a"), nullptr);
}

TEST(JsonParse, takes_integers_of_63_bits_and_larger_ones_as_numbers) {
  EXPECT_EQ(parsed("9223372036854775807").integer, INT64_MAX);
  EXPECT_EQ(parsed("-9223372036854775808").integer, INT64_MIN);
  const Json larger = parsed("9223372036854775808");
  EXPECT_EQ(larger.kind, Json::Kind::kNumber);
  EXPECT_EQ(larger.number, 0x1p63);
}

TEST(JsonParse, says_at_which_byte_and_near_what_it_is_no_json) {
  const auto json = parse_json(R"({"a": NaN})", "FILE");
  ASSERT_FALSE(json.ok());
  EXPECT_TRUE(json.status().message().starts_with("FILE: not JSON at byte 7: "));
  EXPECT_TRUE(json.status().message().ends_with(R"(, near '{"a": NaN}')"));
}

TEST(JsonParse, refuses_what_json_does_not_have) {
  for (const char* text : {"NaN", "Infinity", "-Infinity", "1e999", "{'a':1}", "{\"a\":1,}", "[1,]",
                           "{}{}", "01", "\"\xff\"", "\"\x01\"", "// no\n1"}) {
    const auto json = parse_json(text, "FILE");
    ASSERT_FALSE(json.ok()) << text;
    EXPECT_TRUE(json.status().message().starts_with("FILE: ")) << json.status().message();
  }
}

TEST(JsonParse, refuses_a_key_that_stands_twice) {
  expect_refused(R"({"x":{"a":1,"b":2,"a":3}})", "FILE: the key 'a' stands twice");
}

TEST(JsonParse, refuses_deep_nesting) {
  const auto nested = [](std::size_t depth) {
    return std::string(depth, '[') + std::string(depth, ']');
  };
  parsed(nested(kMaxJsonDepth));
  expect_refused(nested(kMaxJsonDepth + 1), "FILE: nested deeper than 16");
  expect_refused(nested(1'000'000), "FILE: nested deeper than 16");
}

TEST(JsonParse, refuses_more_values_than_it_will_hold) {
  std::string text = "[0";
  for (std::size_t i = 2; i < kMaxJsonValues; ++i) text += ",0";
  parsed(text + "]");
  expect_refused(text + ",0]", "FILE: more than 1048576 values");
}

TEST(JsonParse, keeps_control_characters_out_of_messages) {
  const auto json = parse_json("{\"a\x1b[2J\": nan}", "FILE");
  ASSERT_FALSE(json.ok());
  for (const char c : json.status().message()) EXPECT_GE(c, ' ');
  EXPECT_EQ(printable("a\x1b\x7f\n"), "a???");
  EXPECT_EQ(printable(std::string(81, 'x')), std::string(80, 'x') + "...");
}

TEST(JsonDescribe, is_short) {
  EXPECT_EQ(parsed("[7]").describe(), "[7]");
  EXPECT_EQ(parsed("[7,8]").describe(), "[...]");
  EXPECT_EQ(parsed("{\"a\":1}").describe(), "{...}");
  EXPECT_EQ(parsed("\"x\"").describe(), "\"x\"");
  EXPECT_EQ(parsed("2.5").describe(), "2.5");
  EXPECT_EQ(parsed("false").describe(), "false");
  EXPECT_EQ(parsed("null").describe(), "null");
}

TEST(JsonParse, number_of_values_is_the_callers) {
  EXPECT_TRUE(parse_json("[1,2]", "FILE", 3).ok());
  const auto json = parse_json("[1,2,3]", "FILE", 3);
  ASSERT_FALSE(json.ok());
  EXPECT_EQ(json.status().message(), "FILE: more than 3 values");
}

}  // namespace
}  // namespace airlock
