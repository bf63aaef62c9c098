#include "runtime/json/reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <new>
#include <nlohmann/json.hpp>

#include "base/safe_text.h"

namespace airlock {
namespace {

/// Builds a Json from nlohmann's parse events. False, which ends the parsing, with a reason, at the
/// first thing that it refuses.
class Builder : public nlohmann::json_sax<nlohmann::json> {
 public:
  Builder(std::string_view text, std::size_t most_values)
      : text_(text), most_values_(most_values) {}

  bool null() override { return add(Json::Kind::kNull); }
  bool boolean(bool value) override { return add(Json::Kind::kBool, &Json::boolean, value); }
  bool number_integer(number_integer_t value) override {
    return add(Json::Kind::kInteger, &Json::integer, value);
  }
  bool number_unsigned(number_unsigned_t value) override {
    return value <= std::numeric_limits<number_integer_t>::max()
               ? number_integer(static_cast<number_integer_t>(value))
               : number_float(static_cast<double>(value), {});
  }
  bool number_float(number_float_t value, const string_t& /*text*/) override {
    return add(Json::Kind::kNumber, &Json::number, value);
  }
  bool string(string_t& value) override {
    return add(Json::Kind::kString, &Json::text, std::move(value));
  }
  bool binary(binary_t& /*value*/) override { return refuse("binary data"); }
  bool start_object(std::size_t /*count*/) override { return open(Json::Kind::kObject); }
  bool start_array(std::size_t /*count*/) override { return open(Json::Kind::kArray); }
  bool key(string_t& value) override {
    open_.back()->keys.push_back(std::move(value));
    return true;
  }
  bool end_object() override {
    std::vector<std::string_view> keys(open_.back()->keys.begin(), open_.back()->keys.end());
    std::ranges::sort(keys);
    const auto twin = std::ranges::adjacent_find(keys);
    if (twin != keys.end())
      return refuse(fmt::format("the key '{}' stands twice", printable(*twin)));
    return end_array();
  }
  bool end_array() override {
    open_.pop_back();
    return true;
  }
  bool parse_error(std::size_t position, const std::string& /*token*/,
                   const nlohmann::detail::exception& error) override {
    // "[json.exception.parse_error.101] parse error at line 1, column 2: ...; what". The text at
    // hand says more to a user than the parser's own words: a NaN, say, with its key before it.
    constexpr std::size_t kBefore = 48;
    constexpr std::size_t kAfter = 8;
    const std::string_view what = error.what();
    const std::size_t semicolon = what.rfind("; ");
    const std::size_t begin = std::min(position - std::min(position, kBefore), text_.size());
    return refuse(fmt::format(
        "not JSON at byte {}: {}, near '{}'", position,
        printable(semicolon == std::string_view::npos ? what : what.substr(semicolon + 2)),
        printable(text_.substr(begin, kBefore + kAfter))));
  }

  bool refuse(std::string reason) {
    reason_ = std::move(reason);
    return false;
  }
  const std::string& reason() const { return reason_; }
  Json take() { return std::move(root_); }

 private:
  bool add(Json::Kind kind) {
    if (++value_count_ > most_values_)
      return refuse(fmt::format("more than {} values", most_values_));
    last_ = open_.empty() ? &root_ : &open_.back()->items.emplace_back();
    last_->kind = kind;
    return true;
  }
  template <typename Value>
  bool add(Json::Kind kind, Value Json::*member, Value value) {
    if (add(kind)) last_->*member = std::move(value);
    return reason_.empty();
  }
  bool open(Json::Kind kind) {
    if (open_.size() >= kMaxJsonDepth)
      return refuse(fmt::format("nested deeper than {}", kMaxJsonDepth));
    if (add(kind)) open_.push_back(last_);
    return reason_.empty();
  }

  const std::string_view text_;
  const std::size_t most_values_;
  Json root_;
  // A container's address is stable while it is open: its parent's items grow only after it was
  // closed.
  std::vector<Json*> open_;
  Json* last_ = nullptr;
  std::size_t value_count_ = 0;
  // Empty while nothing was refused.
  std::string reason_;
};

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

const Json* Json::find(std::string_view key) const {
  const auto found = std::ranges::find(keys, key);
  return found == keys.end() ? nullptr : &items[static_cast<std::size_t>(found - keys.begin())];
}

std::string Json::describe() const {
  switch (kind) {
    case Kind::kNull:
      return "null";
    case Kind::kBool:
      return boolean ? "true" : "false";
    case Kind::kInteger:
      return fmt::format("{}", integer);
    case Kind::kNumber:
      return fmt::format("{}", number);
    case Kind::kString:
      return fmt::format("\"{}\"", printable(text));
    case Kind::kArray:
      return items.size() == 1 ? fmt::format("[{}]", items[0].describe()) : "[...]";
    case Kind::kObject:
      return "{...}";
  }
  return "?";
}

std::string printable(std::string_view text) {
  constexpr std::size_t kMostBytes = 80;
  if (text.size() <= kMostBytes) return without_controls(text, "?");
  // Between two characters.
  std::size_t end = kMostBytes;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xc0U) == 0x80U) --end;
  return without_controls(text.substr(0, end), "?") + "...";
}

Result<Json> parse_json(std::string_view text, std::string_view source, std::size_t most_values) {
  Builder builder(text, most_values);
  try {
    if (nlohmann::json::sax_parse(text.begin(), text.end(), &builder)) return builder.take();
  } catch (const std::bad_alloc&) {
    return Status(StatusCode::kResourceExhausted, "{}: no memory for its JSON", source);
  } catch (const std::exception& error) {
    builder.refuse(printable(error.what()));
  }
  return Status(StatusCode::kInvalidInput, "{}: {}", source, builder.reason());
}

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
