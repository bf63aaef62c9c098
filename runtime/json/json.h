#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace airlock {

/// A JSON value from a file or a peer that nobody vouches for: parsed with limits on nesting and on
/// the number of values, duplicate keys refused, NaN and infinities refused. JsonReader
/// (runtime/json/reader.h) reads it.
struct Json {
  enum class Kind : std::uint8_t { kNull, kBool, kInteger, kNumber, kString, kArray, kObject };

  Kind kind = Kind::kNull;
  bool boolean = false;
  // kInteger. What does not fit is a kNumber.
  std::int64_t integer = 0;
  // kNumber.
  double number = 0;
  // kString, UTF-8.
  std::string text;
  // kObject: items[i] has keys[i], in the order of the file.
  std::vector<std::string> keys;
  // kArray, kObject.
  std::vector<Json> items;

  bool is_object() const { return kind == Kind::kObject; }
  bool is_string() const { return kind == Kind::kString; }
  /// The member, or nullptr; linear in the number of members.
  const Json* find(std::string_view key) const;
  /// For messages: a short text with control characters replaced; "[...]" and "{...}" for arrays
  /// and objects.
  std::string describe() const;
};

/// Replaces control characters and cuts what is longer than 80 bytes: names from files, for
/// messages.
std::string printable(std::string_view text);

inline constexpr std::size_t kMaxJsonDepth = 16;
inline constexpr std::size_t kMaxJsonValues = std::size_t{1} << 20;

/// The one value in `text`. kInvalidInput, beginning with `source`, for anything else;
/// kResourceExhausted where there is no memory for it.
Result<Json> parse_json(std::string_view text, std::string_view source);

}  // namespace airlock
