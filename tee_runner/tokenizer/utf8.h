#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace airlock {

/// U+FFFD, what stands for bytes that are no character.
inline constexpr std::string_view kReplacementCharacter = "\xef\xbf\xbd";

/// What a text that ends within a character is: cut, with more to come, or all there is.
enum class TextEnd : std::uint8_t { kMoreComes, kEnds };

/// Appends `bytes` to `out` with a U+FFFD for each longest run that begins a character and does not
/// end it, and for each byte that begins none, as Python's errors="replace" does. With kMoreComes
/// the beginning of a character at the end is left. The number of bytes that were read.
std::size_t append_utf8(std::string_view bytes, TextEnd end, std::string& out);
/// All of it.
std::string repaired_utf8(std::string_view bytes);

struct Character {
  char32_t code = 0;
  std::size_t bytes = 0;
};
/// The first of a text that is UTF-8 and not empty.
Character first_character(std::string_view text);
/// Where the last character of a text that is UTF-8 and not empty begins.
std::size_t last_character_at(std::string_view text);
void append_character(std::string& text, char32_t code);

/// Unicode's White_Space.
bool is_white_space(char32_t code);

}  // namespace airlock
