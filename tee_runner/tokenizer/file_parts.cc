#include "tee_runner/tokenizer/file_parts.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "tee_runner/tokenizer/split_pattern.h"
#include "tee_runner/tokenizer/utf8.h"

namespace airlock {

void demand_type(const JsonReader& part, std::initializer_list<std::string_view> known,
                 TypeIs type) {
  if (!part.ok() || (type == TypeIs::kOptional && !part.has("type"))) return;
  const JsonReader given = part.at("type");
  if (!given.json().is_string() || std::ranges::find(known, given.json().text) == known.end())
    given.refuse(fmt::format("\"{}\": nothing else is supported", fmt::join(known, "\" or \"")));
}

void demand_keys(const JsonReader& part, std::initializer_list<std::string_view> known) {
  if (!part.ok() || !part.json().is_object()) return;
  for (std::size_t i = 0; i < part.json().keys.size(); ++i) {
    const std::string& key = part.json().keys[i];
    if (std::ranges::find(known, key) != known.end()) continue;
    return part.at(key).fail(
        fmt::format("is not supported: known here are {}", fmt::join(known, ", ")));
  }
}

FilePattern read_pattern(const JsonReader& pattern) {
  FilePattern read;
  demand_keys(pattern, {"String", "Regex"});
  if (!pattern.ok()) return read;
  read.is_regex = pattern.has("Regex");
  pattern.read(read.is_regex ? "Regex" : "String", read.text, kMaxPatternBytes);
  if (pattern.json().items.size() > 1) pattern.refuse("one of String and Regex");
  if (pattern.ok() && read.text.empty()) pattern.fail("is empty");
  return read;
}

std::string read_one_character(const JsonReader& part, std::string_view key) {
  std::string text;
  part.read(key, text, 4);
  if (part.ok() && (text.empty() || first_character(text).bytes != text.size()))
    part.at(key).refuse("one character");
  return text;
}

}  // namespace airlock
