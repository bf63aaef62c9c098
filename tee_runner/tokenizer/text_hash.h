#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace airlock {

/// A number of this process that nobody can guess: who writes a file or a text cannot choose keys
/// that all fall into one place of a table.
std::uint64_t hash_seed();

struct TextHash {
  using is_transparent = void;
  std::size_t operator()(std::string_view text) const;
};

}  // namespace airlock
