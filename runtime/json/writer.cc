#include "runtime/json/writer.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

namespace airlock {

std::string ascii_json_string(std::string_view text) {
  using nlohmann::json;
  return json(text).dump(-1, ' ', true, json::error_handler_t::replace);
}

std::string JsonObject::indented() const { return nlohmann::ordered_json::parse(text()).dump(2); }

void JsonMember::append_text(std::string& to, std::string_view text) {
  const bool plain = std::ranges::all_of(
      text, [](char c) { return c >= ' ' && c <= '~' && c != '"' && c != '\\'; });
  if (plain) {
    (to += '"').append(text) += '"';
  } else {
    using nlohmann::json;
    to += json(text).dump(-1, ' ', false, json::error_handler_t::replace);
  }
}

void JsonMember::append_number(std::string& to, float number) {
  to += std::isfinite(number) ? fmt::format("{}", number) : "null";
}

void JsonMember::append_number(std::string& to, double number) {
  to += std::isfinite(number) ? fmt::format("{}", number) : "null";
}

void JsonMember::append_number(std::string& to, JsonFixed number) {
  to += std::isfinite(number.value) ? fmt::format("{:.{}f}", number.value, number.digits) : "null";
}

}  // namespace airlock
