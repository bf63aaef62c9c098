#include "runtime/json/json.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <new>
#include <nlohmann/json.hpp>

namespace airlock {
namespace {

/// Builds a Json from nlohmann's parse events. False, which ends the parsing, with a reason, at the
/// first thing that it refuses.
class Builder : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit Builder(std::string_view text) : text_(text) {}

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
    if (++value_count_ > kMaxJsonValues)
      return refuse(fmt::format("more than {} values", kMaxJsonValues));
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
  Json root_;
  // A container's address is stable while it is open: its parent's items grow only after it was
  // closed.
  std::vector<Json*> open_;
  Json* last_ = nullptr;
  std::size_t value_count_ = 0;
  // Empty while nothing was refused.
  std::string reason_;
};

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
    return Status(StatusCode::kResourceExhausted, "{}: no memory for its JSON", source);
  } catch (const std::exception& error) {
    builder.refuse(printable(error.what()));
  }
  return Status(StatusCode::kInvalidInput, "{}: {}", source, builder.reason());
}

}  // namespace airlock
