#include "tee_runner/serve/field_reader.h"

#include <fmt/format.h>

namespace airlock {

std::optional<bool> FieldReader::boolean() const {
  if (json_.kind == Json::Kind::kBool) return json_.boolean;
  refuse("has to be true or false");
  return std::nullopt;
}

std::optional<std::int64_t> FieldReader::integer(std::int64_t least, std::int64_t most) const {
  if (json_.kind == Json::Kind::kInteger && json_.integer >= least && json_.integer <= most)
    return json_.integer;
  refuse(fmt::format("has to be an integer from {} to {}", least, most));
  return std::nullopt;
}

std::optional<double> FieldReader::number(double least, double most) const {
  const bool is_integer = json_.kind == Json::Kind::kInteger;
  const double value = is_integer ? static_cast<double>(json_.integer) : json_.number;
  if ((is_integer || json_.kind == Json::Kind::kNumber) && value >= least && value <= most)
    return value;
  refuse(fmt::format("has to be a number from {} to {}", least, most));
  return std::nullopt;
}

const std::string* FieldReader::text(std::size_t most_bytes) const {
  if (json_.is_string() && json_.text.size() <= most_bytes) return &json_.text;
  refuse(fmt::format("has to be a text of at most {} bytes", most_bytes));
  return nullptr;
}

bool FieldReader::is_array(std::size_t most) const {
  if (json_.kind == Json::Kind::kArray && json_.items.size() <= most) return true;
  refuse(fmt::format("has to be an array of at most {}", most));
  return false;
}

void FieldReader::refuse(std::string_view what, std::string_view code) const {
  if (!ok()) return;
  error_.status = 400;
  error_.message =
      name_.empty() ? fmt::format("the body {}", what) : fmt::format("'{}' {}", name_, what);
  error_.param = name_;
  error_.code = code;
}

}  // namespace airlock
