#pragma once

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "base/enum.h"
#include "base/status.h"

namespace airlock {

/// A JSON value from a file or a peer that nobody vouches for: parsed with limits on nesting and on
/// the number of values; duplicate keys, NaN and infinities are refused. JsonReader reads it.
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

/// As without_controls(), with what is longer than 80 bytes cut: names from files, for messages.
std::string printable(std::string_view text);

inline constexpr std::size_t kMaxJsonDepth = 16;
inline constexpr std::size_t kMaxJsonValues = std::size_t{1} << 20;

/// The one value in `text`. kInvalidInput, beginning with `source`, for anything else;
/// kResourceExhausted where there is no memory for it.
Result<Json> parse_json(std::string_view text, std::string_view source,
                        std::size_t most_values = kMaxJsonValues);

/// What a number may be, or how many bytes a text may have.
struct JsonRange {
  constexpr JsonRange(std::int64_t at_most) : most(at_most) {}  // NOLINT: implicit by intent
  constexpr JsonRange(std::int64_t at_least, std::int64_t at_most)
      : least(at_least), most(at_most) {}

  std::int64_t least = 0;
  std::int64_t most;
};

inline constexpr std::int64_t kMaxJsonTextBytes = 4096;

/// What is read into a T where nothing else was said. Of a double, something has to be said.
template <typename T>
inline constexpr JsonRange kJsonRange = std::numeric_limits<std::int64_t>::max();
template <std::integral T>
inline constexpr JsonRange kJsonRange<T> = static_cast<std::int64_t>(std::min<std::uint64_t>(
    std::numeric_limits<T>::max(), std::numeric_limits<std::int64_t>::max()));
template <>
inline constexpr JsonRange kJsonRange<std::string> = kMaxJsonTextBytes;
template <>
inline constexpr std::nullptr_t kJsonRange<double> = nullptr;
template <typename T>
inline constexpr JsonRange kJsonRange<std::optional<T>> = kJsonRange<T>;

/// A place in a document that nobody vouches for, and what is read there:
///
///   Status status;
///   const JsonReader root(json, "FILE", status);
///   root.read("cores", host.cores, 1024);
///   root.at("paths").at("ring").read("bytes", bytes);
///   RETURN_IF_ERROR(status);  // FILE: 'paths.ring.bytes' is -1, expected an integer from 0 to ...
///
/// The first thing that does not fit is kept in the status (kInvalidInput), which all readers of a
/// document share; what should have been read there stays as it was. Views document, source and
/// status.
class JsonReader {
 public:
  JsonReader(const Json& document, std::string_view source, Status& status)
      : JsonReader(document, document, source, status) {}

  const Json& json() const { return json_; }
  bool ok() const { return status_.ok(); }
  /// Whether this object has the member, and it is not null.
  bool has(std::string_view key) const;
  /// The member of this object, which must be there.
  JsonReader at(std::string_view key) const;
  /// The elements of this array; none where they are more than `most`.
  std::vector<JsonReader> items(std::size_t most) const;
  /// The members of this object, in their order; none where they are more than `most`.
  std::vector<std::pair<std::string_view, JsonReader>> members(std::size_t most) const;

  template <std::integral T>
  void get(T& out, JsonRange range = kJsonRange<T>) const {
    out = static_cast<T>(integer({range.least, std::min(range.most, kJsonRange<T>.most)},
                                 static_cast<std::int64_t>(out)));
  }
  /// A number over range.least.
  void get(double& out, JsonRange range) const;
  void get(bool& out, JsonRange range = 1) const;
  void get(std::string& out, JsonRange bytes = kMaxJsonTextBytes) const;
  /// An enumerator by its name.
  template <typename E>
  requires std::is_enum_v<E>
  void get(E& out, JsonRange /*range*/ = 0) const {
    const std::optional<E> value = json_.is_string() ? from_name<E>(json_.text) : std::nullopt;
    if (!value) return refuse("one of: " + names_of<E>());
    out = *value;
  }
  /// null is nullopt.
  template <typename T>
  void get(std::optional<T>& out, JsonRange range = kJsonRange<T>) const {
    out.reset();
    if (json_.kind != Json::Kind::kNull) get(out.emplace(), range);
  }

  /// The member, which must be there.
  template <typename T>
  void read(std::string_view key, T& out, JsonRange range = kJsonRange<T>) const {
    at(key).get(out, range);
  }
  /// The same, where it is there and not null.
  template <typename T>
  void maybe(std::string_view key, T& out, JsonRange range = kJsonRange<T>) const {
    if (has(key)) read(key, out, range);
  }

  /// "SOURCE: 'PLACE' is VALUE, expected EXPECTED".
  void refuse(std::string_view expected) const;
  /// "SOURCE: 'PLACE' WHAT"; `key`: of a member that is not there.
  void fail(std::string_view what, std::string_view key = {}) const;

 private:
  JsonReader(const Json& json, const Json& document, std::string_view source, Status& status)
      : json_(json), document_(document), source_(source), status_(status) {}
  JsonReader inner(const Json& json) const { return {json, document_, source_, status_}; }
  bool is_object() const;
  std::int64_t integer(JsonRange range, std::int64_t otherwise) const;

  const Json& json_;
  // For messages only: the place is looked up when one is needed.
  const Json& document_;
  std::string_view source_;
  Status& status_;
};

}  // namespace airlock
