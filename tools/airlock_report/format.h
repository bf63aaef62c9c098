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

enum class Unit : std::uint8_t { kCount, kTime, kBytes };

/// "16 303 145", with narrow no-break spaces.
std::string grouped(std::uint64_t value);
/// Three digits, "999 ns", "1.02 s", "22.2 MiB"; a count whole and grouped.
std::string in_words(std::uint64_t value, Unit unit);
inline std::string human_time(std::uint64_t ns) { return in_words(ns, Unit::kTime); }
inline std::string human_bytes(std::uint64_t bytes) { return in_words(bytes, Unit::kBytes); }
/// A round value: "0", "20 ms", "5 k".
std::string tick_label(std::uint64_t value, Unit unit);

}  // namespace airlock::report
