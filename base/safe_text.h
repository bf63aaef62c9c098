#pragma once

#include <string>
#include <string_view>

namespace airlock {

/// `text`, from a peer or a file, with `replacement` for each byte of what would drive a terminal,
/// forge a line or turn the text round: control characters, also those of eight bits (U+0080 to
/// U+009F), Unicode's line separators and its marks of direction, and what is not UTF-8.
std::string without_controls(std::string_view text, std::string_view replacement);
/// Whether without_controls() would replace anything.
bool has_controls(std::string_view text);

}  // namespace airlock
