#include <gtest/gtest.h>

#include <string>

#include "base/dtype.h"
#include "runtime/json/reader.h"

namespace airlock {
namespace {

class JsonReaderTest : public testing::Test {
 protected:
  JsonReader reader(std::string_view text) {
    json_ = parse_json(text, "FILE").value();
    return {json_, "FILE", status_};
  }
  void expect_refused(const std::string& message) {
    EXPECT_EQ(status_.code(), StatusCode::kInvalidInput);
    EXPECT_EQ(status_.message(), message);
    status_ = {};
  }

  Json json_;
  Status status_;
};

TEST_F(JsonReaderTest, reads_each_kind_of_member) {
  const JsonReader root =
      reader(R"({"count":7,"share":0.5,"on":true,"name":"n","dtype":"bf16","none":null,"some":3})");
  std::uint16_t count = 0;
  double share = 0;
  bool on = false;
  std::string name;
  DType dtype = DType::kF32;
  std::optional<std::uint64_t> none = 1;
  std::optional<std::uint64_t> some;
  root.read("count", count);
  root.read("share", share, 1);
  root.read("on", on);
  root.read("name", name);
  root.read("dtype", dtype);
  root.read("none", none);
  root.read("some", some);
  EXPECT_TRUE(status_.ok()) << status_.message();
  EXPECT_EQ(count, 7);
  EXPECT_EQ(share, 0.5);
  EXPECT_TRUE(on);
  EXPECT_EQ(name, "n");
  EXPECT_EQ(dtype, DType::kBF16);
  EXPECT_EQ(none, std::nullopt);
  EXPECT_EQ(some, 3U);
}

TEST_F(JsonReaderTest, names_the_place_of_what_is_missing) {
  std::uint64_t count = 5;
  reader(R"({"a":{"b":{}}})").at("a").at("b").read("count", count);
  expect_refused("FILE: 'a.b.count' is missing");
  EXPECT_EQ(count, 5U);
  reader("{}").at("a").at("b").read("count", count);
  expect_refused("FILE: 'a' is missing");
}

TEST_F(JsonReaderTest, keeps_the_first_refusal_and_what_there_was) {
  std::uint64_t count = 5;
  std::string name = "as it was";
  const JsonReader root = reader(R"({"count":-1,"name":2})");
  root.read("count", count);
  root.read("name", name);
  expect_refused("FILE: 'count' is -1, expected an integer from 0 to 9223372036854775807");
  EXPECT_EQ(count, 5U);
  EXPECT_EQ(name, "as it was");
}

TEST_F(JsonReaderTest, holds_integers_to_their_range_and_their_type) {
  std::uint64_t count = 0;
  for (const char* value :
       {"2", "11", "3.0", "1e1", "\"4\"", "true", "null", "[4]", "18446744073709551615"}) {
    reader(std::string("{\"n\":") + value + "}").read("n", count, {3, 10});
    EXPECT_TRUE(status_.message().ends_with("expected an integer from 3 to 10")) << value;
    status_ = {};
  }
  std::uint8_t small = 0;
  reader(R"({"n":256})").read("n", small, 1000);
  expect_refused("FILE: 'n' is 256, expected an integer from 0 to 255");
  std::int64_t negative = 0;
  reader(R"({"n":-3})").read("n", negative, {-3, 0});
  EXPECT_EQ(negative, -3);
}

TEST_F(JsonReaderTest, holds_numbers_to_their_range) {
  double number = 0;
  reader(R"({"n":2})").read("n", number, 2);
  EXPECT_EQ(number, 2.0);
  for (const char* value : {"0", "-1", "2.1", "1e300", "\"1\"", "false"}) {
    reader(std::string("{\"n\":") + value + "}").read("n", number, 2);
    EXPECT_TRUE(status_.message().ends_with("expected a number over 0, at most 2")) << value;
    status_ = {};
  }
}

TEST_F(JsonReaderTest, holds_texts_to_their_length) {
  std::string text;
  reader(R"({"t":"abc"})").read("t", text, 3);
  EXPECT_EQ(text, "abc");
  reader(R"({"t":"abcd"})").read("t", text, 3);
  expect_refused("FILE: 't' is \"abcd\", expected a text of at most 3 bytes");
  reader("{\"t\":\"" + std::string(4097, 'x') + "\"}").read("t", text);
  EXPECT_FALSE(status_.ok());
}

TEST_F(JsonReaderTest, names_what_an_enumerator_may_be) {
  DType dtype = DType::kF16;
  reader(R"({"d":"int4"})").read("d", dtype);
  expect_refused(
      "FILE: 'd' is \"int4\", expected one of: fp32, fp16, bf16, int32, uint8, fp64, uint32, int8");
  reader(R"({"d":1})").read("d", dtype);
  expect_refused(
      "FILE: 'd' is 1, expected one of: fp32, fp16, bf16, int32, uint8, fp64, uint32, int8");
  reader(R"({"d":""})").read("d", dtype);
  EXPECT_FALSE(status_.ok());
  EXPECT_EQ(dtype, DType::kF16);
}

TEST_F(JsonReaderTest, takes_null_for_missing_where_a_member_may_be) {
  std::uint64_t count = 5;
  const JsonReader root = reader(R"({"a":null,"b":6,"c":-1})");
  root.maybe("a", count);
  root.maybe("x", count);
  EXPECT_EQ(count, 5U);
  EXPECT_TRUE(status_.ok());
  root.maybe("b", count);
  EXPECT_EQ(count, 6U);
  root.maybe("c", count, 9);
  expect_refused("FILE: 'c' is -1, expected an integer from 0 to 9");
}

TEST_F(JsonReaderTest, numbers_the_elements_of_an_array) {
  const JsonReader root = reader(R"({"list":[1,{"x":-2}]})");
  const auto items = root.at("list").items(2);
  ASSERT_EQ(items.size(), 2U);
  std::uint64_t x = 0;
  items[0].get(x);
  EXPECT_EQ(x, 1U);
  items[1].read("x", x, 5);
  expect_refused("FILE: 'list.1.x' is -2, expected an integer from 0 to 5");
  EXPECT_TRUE(root.at("list").items(1).empty());
  expect_refused("FILE: 'list' is [...], expected an array of at most 1");
  EXPECT_TRUE(items[1].items(3).empty());
  expect_refused("FILE: 'list.1' is {...}, expected an array of at most 3");
}

TEST_F(JsonReaderTest, lists_the_members_of_an_object) {
  const JsonReader root = reader(R"({"m":{"b":1,"a":2}})");
  const auto members = root.at("m").members(2);
  ASSERT_EQ(members.size(), 2U);
  EXPECT_EQ(members[0].first, "b");
  members[1].second.refuse("something else");
  expect_refused("FILE: 'm.a' is 2, expected something else");
  EXPECT_TRUE(root.at("m").members(1).empty());
  expect_refused("FILE: 'm' has 2 entries, expected at most 1");
}

TEST_F(JsonReaderTest, refuses_what_is_no_object) {
  EXPECT_FALSE(reader("[1]").has("a"));
  expect_refused("FILE: is [1], expected an object");
  reader("7").at("a");
  expect_refused("FILE: is 7, expected an object");
  EXPECT_TRUE(reader(R"("x")").members(1).empty());
  expect_refused("FILE: is \"x\", expected an object");
}

TEST_F(JsonReaderTest, keeps_control_characters_out_of_messages) {
  const JsonReader root = reader(R"({"a\u001b":"\u0007"})");
  root.members(1)[0].second.refuse("none");
  expect_refused("FILE: 'a?' is \"?\", expected none");
}

}  // namespace
}  // namespace airlock
