#include "bench/record.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/check.h"

namespace airlock::bench {

namespace {

std::string quoted(std::string_view text) {
  std::string json = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') json += '\\';
    if (static_cast<unsigned char>(c) < 0x20) {
      json += fmt::format("\\u{:04x}", static_cast<unsigned>(c));
    } else {
      json += c;
    }
  }
  return json + '"';
}

}  // namespace

double median_of(std::vector<double> values) {
  CHECK(!values.empty());
  const std::size_t middle = values.size() / 2;
  std::sort(values.begin(), values.end());
  return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

Record& Record::field(std::string_view key, std::string_view json_value) {
  if (!fields_.empty()) fields_ += ',';
  fields_ += quoted(key);
  fields_ += ':';
  fields_ += json_value;
  return *this;
}

Record& Record::text(std::string_view key, std::string_view value) {
  return field(key, quoted(value));
}

Record& Record::number(std::string_view key, double value) {
  return field(key, std::isfinite(value) ? fmt::format("{:.6g}", value) : "null");
}

Record& Record::count(std::string_view key, std::uint64_t value) {
  return field(key, fmt::format("{}", value));
}

Record& Record::spread(std::string_view key, std::vector<double> values) {
  const double median = median_of(values);
  const auto [least, most] = std::minmax_element(values.begin(), values.end());
  number(fmt::format("{}_median", key), median);
  number(fmt::format("{}_min", key), *least);
  number(fmt::format("{}_max", key), *most);
  return count(fmt::format("{}_count", key), values.size());
}

}  // namespace airlock::bench
