#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>

namespace airlock {

/// The characters that stand for bytes in a byte-level vocabulary: those of Latin-1 that can be
/// seen stand for themselves, the other bytes for what follows U+0100, in order.
class ByteAlphabet {
 public:
  static const ByteAlphabet& get();

  /// In UTF-8.
  const std::string& text(std::uint8_t byte) const { return texts_[byte]; }
  /// nullopt for a character that stands for no byte.
  std::optional<std::uint8_t> byte(char32_t code) const {
    if (code >= bytes_.size() || bytes_[code] < 0) return std::nullopt;
    return static_cast<std::uint8_t>(bytes_[code]);
  }

 private:
  ByteAlphabet();

  std::array<std::string, 256> texts_;
  std::array<std::int16_t, 256 + 68> bytes_{};
};

}  // namespace airlock
