#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <vector>

#include "base/dtype.h"
#include "runtime/json/writer.h"

namespace airlock {
namespace {

TEST(JsonWriter, writes_each_kind_of_value_in_the_order_of_the_members) {
  JsonObject json = {{"b", true},
                     {"n", std::numeric_limits<std::uint64_t>::max()},
                     {"i", -5},
                     {"text", "a"},
                     {"dtype", DType::kBF16},
                     {"none", std::optional<int>()},
                     {"some", std::optional<int>(7)}};
  json.add("object", JsonObject{{"x", 1}});
  json.add("empty", JsonObject());
  EXPECT_EQ(json.text(),
            R"({"b":true,"n":18446744073709551615,"i":-5,"text":"a","dtype":"bf16","none":null,)"
            R"("some":7,"object":{"x":1},"empty":{}})");
  EXPECT_EQ(json.line(), json.text() + "\n");
  EXPECT_EQ(JsonObject().text(), "{}");
}

TEST(JsonWriter, writes_arrays) {
  const std::vector<std::pair<int, std::string>> pairs = {{1, "a"}, {2, "b"}};
  const JsonObject json = {{"numbers", std::vector{1, 2}},
                           {"none", std::vector<int>()},
                           {"pairs", pairs},
                           {"objects", std::vector{JsonObject{{"x", 1}}, JsonObject()}}};
  EXPECT_EQ(json.text(),
            R"({"numbers":[1,2],"none":[],"pairs":[[1,"a"],[2,"b"]],"objects":[{"x":1},{}]})");
}

TEST(JsonWriter, writes_numbers_as_short_as_they_read_back) {
  const JsonObject json = {{"d", 0.1},      {"f", 0.1F},      {"whole", 10000.0},
                           {"small", 1e-5}, {"large", 1e300}, {"fixed", JsonFixed{2.0 / 3, 3}}};
  EXPECT_EQ(json.text(),
            R"({"d":0.1,"f":0.1,"whole":10000,"small":1e-05,"large":1e+300,"fixed":0.667})");
}

TEST(JsonWriter, writes_null_for_what_is_no_number) {
  const JsonObject json = {{"nan", std::nan("")},
                           {"inf", -std::numeric_limits<float>::infinity()},
                           {"fixed", JsonFixed{std::nan(""), 1}}};
  EXPECT_EQ(json.text(), R"({"nan":null,"inf":null,"fixed":null})");
}

TEST(JsonWriter, is_well_formed_whatever_a_text_holds) {
  const JsonObject json = {{"q\"\\\n", "\x01 \"quoted\" back\\slash \xff \xc3\xa9 \x7f"}};
  const auto parsed = nlohmann::json::parse(json.text());
  EXPECT_EQ(parsed.at("q\"\\\n"), "\x01 \"quoted\" back\\slash \xef\xbf\xbd \xc3\xa9 \x7f");
}

TEST(JsonWriter, string_in_ascii_is_one_line) {
  EXPECT_EQ(ascii_json_string("a\"\n\xe2\x80\xa8\xf0\x9f\x98\x80\x7f"),
            "\"a\\\"\\n\\u2028\\ud83d\\ude00\\u007f\"");
  EXPECT_EQ(ascii_json_string(""), "\"\"");
}

TEST(JsonWriter, indents_for_people) {
  const JsonObject json = {{"b", std::vector{1}}, {"a", JsonObject{{"x", 0.5}}}};
  EXPECT_EQ(json.indented(), "{\n  \"b\": [\n    1\n  ],\n  \"a\": {\n    \"x\": 0.5\n  }\n}");
}

}  // namespace
}  // namespace airlock
