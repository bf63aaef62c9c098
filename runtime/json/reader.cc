#include "runtime/json/reader.h"

#include <fmt/format.h>

namespace airlock {

namespace {

/// Puts the keys that lead from `document` to `json` before `place`, each with a dot behind it.
/// False where it is not in there.
bool find_place(const Json& document, const Json& json, std::string& place) {
  if (&document == &json) return true;
  for (std::size_t i = 0; i < document.items.size(); ++i) {
    if (!find_place(document.items[i], json, place)) continue;
    place =
        fmt::format("{}.{}", document.is_object() ? document.keys[i] : std::to_string(i), place);
    return true;
  }
  return false;
}

}  // namespace

bool JsonReader::is_object() const {
  if (!json_.is_object()) refuse("an object");
  return json_.is_object();
}

bool JsonReader::has(std::string_view key) const {
  const Json* member = is_object() ? json_.find(key) : nullptr;
  return member != nullptr && member->kind != Json::Kind::kNull;
}

JsonReader JsonReader::at(std::string_view key) const {
  static const Json kNull;
  const Json* member = is_object() ? json_.find(key) : nullptr;
  if (member == nullptr) fail("is missing", key);
  return inner(member != nullptr ? *member : kNull);
}

std::vector<JsonReader> JsonReader::items(std::size_t most) const {
  std::vector<JsonReader> readers;
  if (json_.kind != Json::Kind::kArray || json_.items.size() > most) {
    refuse(fmt::format("an array of at most {}", most));
    return readers;
  }
  for (const Json& item : json_.items) readers.push_back(inner(item));
  return readers;
}

std::vector<std::pair<std::string_view, JsonReader>> JsonReader::members(std::size_t most) const {
  std::vector<std::pair<std::string_view, JsonReader>> readers;
  if (!is_object()) return readers;
  if (json_.items.size() > most) {
    fail(fmt::format("has {} entries, expected at most {}", json_.items.size(), most));
    return readers;
  }
  for (std::size_t i = 0; i < json_.items.size(); ++i)
    readers.emplace_back(json_.keys[i], inner(json_.items[i]));
  return readers;
}

std::int64_t JsonReader::integer(JsonRange range, std::int64_t otherwise) const {
  if (json_.kind == Json::Kind::kInteger && json_.integer >= range.least &&
      json_.integer <= range.most) {
    return json_.integer;
  }
  refuse(fmt::format("an integer from {} to {}", range.least, range.most));
  return otherwise;
}

void JsonReader::get(double& out, JsonRange range) const {
  const bool whole = json_.kind == Json::Kind::kInteger;
  const double number = whole ? static_cast<double>(json_.integer) : json_.number;
  if ((!whole && json_.kind != Json::Kind::kNumber) ||
      !(number > static_cast<double>(range.least) && number <= static_cast<double>(range.most))) {
    return refuse(fmt::format("a number over {}, at most {}", range.least, range.most));
  }
  out = number;
}

void JsonReader::get(bool& out, JsonRange /*range*/) const {
  if (json_.kind != Json::Kind::kBool) return refuse("true or false");
  out = json_.boolean;
}

void JsonReader::get(std::string& out, JsonRange bytes) const {
  if (!json_.is_string() || json_.text.size() > static_cast<std::size_t>(bytes.most))
    return refuse(fmt::format("a text of at most {} bytes", bytes.most));
  out = json_.text;
}

void JsonReader::refuse(std::string_view expected) const {
  if (ok()) fail(fmt::format("is {}, expected {}", json_.describe(), expected));
}

void JsonReader::fail(std::string_view what, std::string_view key) const {
  if (!ok()) return;
  std::string place(key);
  find_place(document_, json_, place);
  if (place.ends_with('.')) place.pop_back();
  if (!place.empty()) place = fmt::format("'{}' ", printable(place));
  status_ = {StatusCode::kInvalidInput, "{}: {}{}", source_, place, what};
}

}  // namespace airlock
