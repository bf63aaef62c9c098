#include "runtime/model/json.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <new>
#include <nlohmann/json.hpp>

namespace airlock {

namespace {

/// Receives nlohmann's parse events and builds a Json; returns false, with a reason, at the first
/// thing it refuses.
class Builder : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit Builder(std::string_view text) : text_(text) {}

  bool null() override { return add(Json{}) != nullptr; }
  bool boolean(bool value) override {
    Json json;
    json.kind = Json::Kind::kBool;
    json.boolean = value;
    return add(std::move(json)) != nullptr;
  }
  bool number_integer(number_integer_t value) override {
    Json json;
    json.kind = Json::Kind::kInteger;
    json.integer = value;
    json.number = static_cast<double>(value);
    return add(std::move(json)) != nullptr;
  }
  bool number_unsigned(number_unsigned_t value) override {
    if (value <= static_cast<number_unsigned_t>(std::numeric_limits<std::int64_t>::max())) {
      return number_integer(static_cast<number_integer_t>(value));
    }
    return number_float(static_cast<double>(value), {});
  }
  bool number_float(number_float_t value, const string_t& /*text*/) override {
    Json json;
    json.kind = Json::Kind::kNumber;
    json.number = value;
    return add(std::move(json)) != nullptr;
  }
  bool string(string_t& value) override {
    Json json;
    json.kind = Json::Kind::kString;
    json.text = std::move(value);
    return add(std::move(json)) != nullptr;
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
    std::sort(keys.begin(), keys.end());
    const auto twin = std::adjacent_find(keys.begin(), keys.end());
    if (twin != keys.end())
      return refuse(fmt::format("the key '{}' stands twice", printable(*twin)));
    open_.pop_back();
    return true;
  }
  bool end_array() override {
    open_.pop_back();
    return true;
  }
  bool parse_error(std::size_t position, const std::string& /*token*/,
                   const nlohmann::detail::exception& error) override {
    // "[json.exception.parse_error.101] parse error at line 1, column 2: what". The text at hand
    // says more to a user than the parser's own words: a NaN, say, with its key before it.
    constexpr std::size_t kBefore = 48;
    constexpr std::size_t kAfter = 8;
    const std::string_view what = error.what();
    const std::size_t begin = position > kBefore ? position - kBefore : 0;
    const std::string_view near = begin < text_.size() ? text_.substr(begin, kBefore + kAfter) : "";
    const auto semicolon = what.rfind("; ");
    return refuse(fmt::format(
        "not JSON at byte {}: {}, near '{}'", position,
        printable(semicolon == std::string_view::npos ? what : what.substr(semicolon + 2)),
        printable(near)));
  }

  bool refuse(std::string reason) {
    if (reason_.empty()) reason_ = std::move(reason);
    return false;
  }
  const std::string& reason() const { return reason_; }
  Json take() { return std::move(root_); }

 private:
  // A container's address is stable while it is open: its parent's items grow only after it was
  // closed.
  Json* add(Json value) {
    if (++value_count_ > kMaxJsonValues) {
      refuse(fmt::format("more than {} values", kMaxJsonValues));
      return nullptr;
    }
    if (open_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    open_.back()->items.push_back(std::move(value));
    return &open_.back()->items.back();
  }
  bool open(Json::Kind kind) {
    if (open_.size() >= kMaxJsonDepth)
      return refuse(fmt::format("nested deeper than {}", kMaxJsonDepth));
    Json json;
    json.kind = kind;
    Json* place = add(std::move(json));
    if (place == nullptr) return false;
    open_.push_back(place);
    return true;
  }

  Json root_;
  std::vector<Json*> open_;
  std::size_t value_count_ = 0;
  std::string reason_;

  std::string_view text_;
};

}  // namespace

const Json* Json::find(std::string_view key) const {
  for (std::size_t i = 0; i < keys.size(); ++i) {
    if (keys[i] == key) return &items[i];
  }
  return nullptr;
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
  std::string result(text.substr(0, kMostBytes));
  for (char& c : result) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f) c = '?';
  }
  if (text.size() > kMostBytes) result += "...";
  return result;
}

Result<Json> parse_json(std::string_view text, std::string_view source) {
  Builder builder(text);
  try {
    if (nlohmann::json::sax_parse(text.begin(), text.end(), &builder)) return builder.take();
  } catch (const std::bad_alloc&) {
    return Status(StatusCode::kResourceExhausted,
                  fmt::format("{}: no memory for its JSON", source));
  } catch (const std::exception& error) {
    builder.refuse(printable(error.what()));
  }
  return Status(
      StatusCode::kInvalidInput,
      fmt::format("{}: {}", source, builder.reason().empty() ? "not JSON" : builder.reason()));
}

}  // namespace airlock
