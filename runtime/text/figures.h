#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace airlock {

/// How figures are written for people.

/// "12.345", the milliseconds of `ns`.
std::string ms_text(std::uint64_t ns, int digits = 3);
/// "512 B", "64.00 MiB": in the largest unit of which there is a whole one, up to TiB.
std::string size_text(std::uint64_t bytes);
/// "12.3 %"; "-" of a whole that is 0.
std::string percent_text(double part, double whole);

}  // namespace airlock
