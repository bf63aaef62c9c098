#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "runtime/json/reader.h"
#include "tee_runner/serve/api_error.h"

namespace airlock {

/// A value of a client's JSON, with the name that messages have for it. What does not fit goes to
/// the error that all values of a body share; the first one stays. JsonReader is not it: that one
/// shows the value, which here may be a part of a conversation. Views json and error.
class FieldReader {
 public:
  FieldReader(const Json& json, std::string name, ApiError& error)
      : json_(json), name_(std::move(name)), error_(error) {}

  const Json& json() const { return json_; }
  bool ok() const { return error_.message.empty(); }
  bool is_null() const { return json_.kind == Json::Kind::kNull; }
  FieldReader member(const Json& json, std::string_view key) const {
    return {json, name_.empty() ? printable(key) : name_ + "." + printable(key), error_};
  }
  FieldReader item(std::size_t index) const {
    return {json_.items[index], name_ + "[" + std::to_string(index) + "]", error_};
  }

  // nullopt: refused.
  std::optional<bool> boolean() const;
  std::optional<std::int64_t> integer(std::int64_t least, std::int64_t most) const;
  std::optional<double> number(double least, double most) const;
  /// nullptr: refused.
  const std::string* text(std::size_t most_bytes) const;
  /// Whether it is an array of at most so many; else it is refused.
  bool is_array(std::size_t most) const;

  /// "'NAME' WHAT".
  void refuse(std::string_view what, std::string_view code = {}) const;

 private:
  const Json& json_;
  std::string name_;
  ApiError& error_;
};

}  // namespace airlock
