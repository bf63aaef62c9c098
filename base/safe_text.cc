#include "base/safe_text.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace airlock {
namespace {

/// Beyond ASCII: controls of eight bits, marks and overrides of direction, line separators.
bool is_unsafe(std::uint32_t character) {
  const auto within = [character](std::uint32_t first, std::uint32_t last) {
    return character >= first && character <= last;
  };
  return within(0x80, 0x9f) || character == 0x61c || within(0x200e, 0x200f) ||
         within(0x2028, 0x202e) || within(0x2066, 0x2069);
}

/// Bytes of the character that `text` begins with; 0 where that is unsafe or no UTF-8.
std::size_t safe_character_bytes(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char first = byte(0);
  if (first < 0x80) return first < 0x20 || first == 0x7f ? 0 : 1;
  const std::size_t length = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
  if (first < 0xc2 || first > 0xf4 || text.size() < length) return 0;
  std::uint32_t character = first & (0xffU >> (length + 1));
  for (std::size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return 0;
    character = character << 6U | (byte(i) & 0x3fU);
  }
  const bool overlong = character < (length == 4 ? 0x10000U : length == 3 ? 0x800U : 0x80U);
  const bool surrogate = character >= 0xd800 && character <= 0xdfff;
  return overlong || surrogate || character > 0x10ffff || is_unsafe(character) ? 0 : length;
}

}  // namespace

std::string without_controls(std::string_view text, std::string_view replacement) {
  std::string result;
  while (!text.empty()) {
    const std::size_t length = safe_character_bytes(text);
    result += length == 0 ? replacement : text.substr(0, length);
    text.remove_prefix(std::max<std::size_t>(length, 1));
  }
  return result;
}

bool has_controls(std::string_view text) {
  while (!text.empty()) {
    const std::size_t length = safe_character_bytes(text);
    if (length == 0) return true;
    text.remove_prefix(length);
  }
  return false;
}

}  // namespace airlock
