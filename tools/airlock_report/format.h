#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace airlock::report {

/// `text`, from anywhere, as HTML text or the value of a quoted attribute: markup escaped; control
/// characters and what is not UTF-8 become U+FFFD.
std::string escape_html(std::string_view text);
/// The same, inside <bdi>, so that its writing direction stays its own.
std::string html_text(std::string_view text);

/// "16 303 145", with narrow no-break spaces.
std::string grouped(std::uint64_t value);
/// Three digits: "0 ns", "999 ns", "16.3 ms", "1.02 s".
std::string human_time(std::uint64_t ns);
/// "512 B", "22.2 MiB".
std::string human_bytes(std::uint64_t bytes);

}  // namespace airlock::report
