#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace airlock {

/// "64", "4K", "128M", "1G" (either case; powers of 1024) as bytes; nullopt for anything else and
/// for what 64 bits do not hold.
std::optional<std::uint64_t> parse_size(std::string_view text);

}  // namespace airlock
