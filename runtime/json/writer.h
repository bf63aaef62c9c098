#pragma once

#include <initializer_list>
#include <string>
#include <string_view>
#include <type_traits>

namespace airlock {

/// `text`, UTF-8, as a JSON string in ASCII: one line, whatever a reader takes for the end of one.
std::string ascii_json_string(std::string_view text);

/// A number with so many digits after the point; null where it is none.
struct JsonFixed {
  double value;
  int digits;
};

class JsonObject;

/// "key":value. A value is a bool, a number, a text, an enumerator that has a name, a JsonObject,
/// an optional (null where it is empty), a pair (an array of two) or a range (an array) of these.
/// Numbers have the shortest text that reads back equal; NaN and infinities are null. What is not
/// UTF-8 in a text is replaced.
class JsonMember {
 public:
  template <typename T>
  JsonMember(std::string_view key, const T& value) {
    append(text_, key);
    append(text_ += ':', value);
  }
  const std::string& text() const { return text_; }

 private:
  template <typename T>
  static void append(std::string& to, const T& value) {
    if constexpr (std::is_same_v<T, JsonObject>) {
      to += value.text();
    } else if constexpr (std::is_same_v<T, bool>) {
      to += value ? "true" : "false";
    } else if constexpr (std::is_enum_v<T>) {
      append_text(to, name_of(value));
    } else if constexpr (std::is_integral_v<T>) {
      to += std::to_string(value);
    } else if constexpr (std::is_floating_point_v<T> || std::is_same_v<T, JsonFixed>) {
      append_number(to, value);
    } else if constexpr (std::is_convertible_v<const T&, std::string_view>) {
      append_text(to, value);
    } else if constexpr (requires { value.has_value(); }) {
      value ? append(to, *value) : void(to += "null");
    } else if constexpr (requires { value.second; }) {
      append(to += '[', value.first);
      append(to += ',', value.second);
      to += ']';
    } else {
      std::string_view separator = "[";
      for (const auto& item : value) {
        append(to += separator, item);
        separator = ",";
      }
      to += value.empty() ? "[]" : "]";
    }
  }
  static void append_text(std::string& to, std::string_view text);
  static void append_number(std::string& to, float number);
  static void append_number(std::string& to, double number);
  static void append_number(std::string& to, JsonFixed number);

  std::string text_;
};

/// The text of one JSON object, well formed whatever its members hold:
///
///   JsonObject json = {{"calls", calls}, {"share", 0.5}, {"host", JsonObject{{"name", name}}}};
class JsonObject {
 public:
  JsonObject() = default;
  /// In this order. A key is there once.
  JsonObject(std::initializer_list<JsonMember> members) {
    for (const JsonMember& member : members) add(member);
  }
  JsonObject& add(const JsonMember& member) {
    if (!members_.empty()) members_ += ',';
    members_ += member.text();
    return *this;
  }
  template <typename T>
  JsonObject& add(std::string_view key, const T& value) {
    return add(JsonMember(key, value));
  }
  std::string text() const { return '{' + members_ + '}'; }
  std::string line() const { return text() + '\n'; }
  /// Over many lines, two blanks deeper at each level: for people.
  std::string indented() const;

 private:
  std::string members_;
};

}  // namespace airlock
