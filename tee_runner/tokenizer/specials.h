#pragma once

#include <cstdint>

namespace airlock {

/// Whether a text may become added tokens, special ones among them.
enum class Specials : std::uint8_t {
  // What spells one becomes it, as Hugging Face does.
  kParse,
  // It is plain characters, whatever it spells: what a user typed.
  kPlain,
};

}  // namespace airlock
