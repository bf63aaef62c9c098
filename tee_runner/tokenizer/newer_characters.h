#pragma once

#include <string>
#include <string_view>

namespace airlock {

/// The characters of a general category ("L", "Lu") that came with Unicode 15 and 16, as ranges
/// within the [] of a PCRE2 pattern: the PCRE2 of Debian 12 knows Unicode 14, and what the ids are
/// compared with knows more. Empty for scripts.
std::string newer_characters(std::string_view category);

}  // namespace airlock
