#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>

#include "runtime/json/reader.h"

namespace airlock {

/// What is asked of every part of a tokenizer.json. What does not fit is told to the reader.

enum class TypeIs : std::uint8_t { kNeeded, kOptional };

/// part.type is one of `known`.
void demand_type(const JsonReader& part, std::initializer_list<std::string_view> known,
                 TypeIs type = TypeIs::kNeeded);
/// No other key than `known`: it would change what the part does.
void demand_keys(const JsonReader& part, std::initializer_list<std::string_view> known);

/// {"String": "..."} or {"Regex": "..."}.
struct FilePattern {
  bool is_regex = false;
  std::string text;
};
FilePattern read_pattern(const JsonReader& pattern);

/// A member that is one character.
std::string read_one_character(const JsonReader& part, std::string_view key);

inline constexpr std::size_t kMaxSteps = 64;

/// Calls `read` with each part that `part` is made of, in order: itself, or where it is a Sequence,
/// those under `key`, which may be Sequences, too. `left` of them are taken.
template <typename Read>
void for_each_part(const JsonReader& part, std::string_view key, std::size_t& left,
                   const Read& read) {
  if (!part.ok()) return;
  if (left == 0) return part.fail("is one of more than 64");
  --left;
  const Json* const type = part.json().is_object() ? part.json().find("type") : nullptr;
  if (type == nullptr || !type->is_string() || type->text != "Sequence") return read(part);
  demand_keys(part, {"type", key});
  for (const JsonReader& inner : part.at(key).items(kMaxSteps))
    for_each_part(inner, key, left, read);
}
/// The same of a member of the file; nothing where it is null or missing.
template <typename Read>
void for_each_part_of(const JsonReader& root, std::string_view member, std::string_view key,
                      const Read& read) {
  std::size_t left = kMaxSteps;
  if (root.has(member)) for_each_part(root.at(member), key, left, read);
}

}  // namespace airlock
