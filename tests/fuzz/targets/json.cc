#include <algorithm>

#include "base/check.h"
#include "runtime/json/reader.h"
#include "runtime/json/writer.h"
#include "tests/fuzz/target.h"

namespace airlock::fuzz {
namespace {

/// Appends `json` by the writer's own rules for numbers and texts.
void write(const Json& json, std::string& text) {
  const auto scalar = [&text](const auto& value) {
    const std::string object = JsonObject{{"v", value}}.text();  // {"v":...}
    text.append(object, 5, object.size() - 6);
  };
  switch (json.kind) {
    case Json::Kind::kNull:
      text += "null";
      return;
    case Json::Kind::kBool:
      return scalar(json.boolean);
    case Json::Kind::kInteger:
      return scalar(json.integer);
    case Json::Kind::kNumber:
      return scalar(json.number);
    case Json::Kind::kString:
      return scalar(json.text);
    case Json::Kind::kArray:
    case Json::Kind::kObject:
      break;
  }
  text += json.is_object() ? '{' : '[';
  for (std::size_t i = 0; i < json.items.size(); ++i) {
    if (i > 0) text += ',';
    if (json.is_object()) {
      scalar(json.keys[i]);
      text += ':';
    }
    write(json.items[i], text);
  }
  text += json.is_object() ? '}' : ']';
}

/// A number without a fraction is written as an integer.
double number_of(const Json& json) {
  return json.kind == Json::Kind::kInteger ? static_cast<double>(json.integer) : json.number;
}
bool is_number(const Json& json) {
  return json.kind == Json::Kind::kInteger || json.kind == Json::Kind::kNumber;
}

bool is_same(const Json& a, const Json& b) {
  if (a.kind == Json::Kind::kNumber && is_number(b)) return number_of(a) == number_of(b);
  if (a.kind != b.kind || a.boolean != b.boolean || a.integer != b.integer || a.text != b.text ||
      a.keys != b.keys || a.items.size() != b.items.size()) {
    return false;
  }
  for (std::size_t i = 0; i < a.items.size(); ++i) {
    if (!is_same(a.items[i], b.items[i])) return false;
  }
  return true;
}

std::size_t depth_of(const Json& json) {
  std::size_t deepest = 0;
  for (const Json& item : json.items) deepest = std::max(deepest, depth_of(item));
  return deepest + (json.kind == Json::Kind::kArray || json.is_object() ? 1 : 0);
}

/// Reads the document as if it were each of a few shapes, so that each kind of refusal is made.
void read_as_something(const Json& json) {
  for (int shape = 0; shape < 5; ++shape) {
    Status status;
    const JsonReader root(json, "fuzz", status);
    std::uint16_t number = 0;
    std::string text;
    double real = 0;
    bool yes = false;
    if (shape == 0) root.at("a").at("b").read("c", number);
    if (shape == 1) root.maybe("a", text, 8);
    if (shape == 2) root.read("a", real, {0, 1});
    if (shape == 3) root.maybe("a", yes);
    if (shape == 4) {
      for (const auto& [key, value] : root.members(4)) {
        for (const JsonReader& item : value.items(4)) item.get(number, {2, 9});
      }
    }
    CHECK(real >= 0 && real <= 1);
    CHECK(text.size() <= 8);
    if (!status.ok()) check_refusal(status);
  }
}

std::vector<Bytes> seeds() {
  return bytes_of({JsonObject{{"a", JsonObject{{"b", JsonObject{{"c", 7}}}}},
                              {"pair", std::pair(1, std::uint64_t{18446744073709551615U})},
                              {"list", std::vector<double>{0.5, -1e300, 5e-324}},
                              {"text", "q\"\\\n\xc3\xa9\x01"},
                              {"none", std::optional<int>()},
                              {"yes", true}}
                       .indented(),
                   JsonObject{{"a", -9223372036854775807}}.text(),
                   "[[], {}, null, false, \"\\ud83d\\ude00\"]", "-0.0"});
}

bool run(std::span<const std::byte> input) {
  const auto json = parse_json(text_of(input), "fuzz");
  if (!json.ok()) {
    CHECK(json.status().code() == StatusCode::kInvalidInput);
    CHECK(json.status().message().starts_with("fuzz: "));
    check_refusal(json.status());
    return false;
  }
  CHECK(depth_of(*json) <= kMaxJsonDepth);
  std::string text;
  write(*json, text);
  const auto again = parse_json(text, "again");
  CHECK(again.ok() && is_same(*json, *again));
  read_as_something(*json);
  return true;
}

}  // namespace

constinit const Target kJson = {"json", seeds, run};

}  // namespace airlock::fuzz
