#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include "base/status.h"
#include "proto/op.h"

namespace airlock {

/// Words that look random to who has not the key: AES-128 in counter mode. docs/PRIVACY.md draws
/// the counters; the layout is that of the golden vectors (tests/exact).

/// 16 bytes of a key, wiped when they go.
struct PadKey : std::array<std::byte, kPadKeyBytes> {
  ~PadKey();
};

/// HKDF-SHA256 (RFC 5869) of a secret, 16 bytes. `label` is the info: kPadLabel, kCheckLabel.
inline constexpr std::string_view kPadLabel = "airlock/otp/pad/v1";
inline constexpr std::string_view kCheckLabel = "airlock/otp/check/v1";
Result<PadKey> derive_key(std::span<const std::byte, 32> secret,
                          std::span<const std::byte, 16> salt, std::string_view label);

/// Overwrites a secret before its memory goes; no compiler leaves it out.
void wipe(std::span<std::byte> secret);

/// Which words: no two uses of one key have the same.
struct WordsPlace {
  std::uint32_t epoch = 0;  // of a pad: the pass; of a check: 0
  std::uint16_t layer = 0;
  Linear linear = Linear::kQkv;
  std::uint32_t row = 0;  // of a pad: the row in its pass; of a check: which vector
};

/// One key's words, mod 2^32. One thread. What it holds of the key is wiped when it goes.
class WordStream {
 public:
  static Result<WordStream> create(const PadKey& key);
  WordStream(WordStream&&) noexcept;
  WordStream& operator=(WordStream&&) noexcept;
  ~WordStream();

  /// The first out.size() words of `place`, at most 2^32 bytes of them. kInternal: the library
  /// failed.
  Status words(const WordsPlace& place, std::span<std::uint32_t> out);

 private:
  struct State;
  explicit WordStream(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace airlock
