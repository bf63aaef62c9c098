#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace airlock {

/// Who may ask for answers. Keeps digests of the keys, not the keys. Thread-safe: it does not
/// change.
class ApiKeys {
 public:
  static constexpr std::size_t kMaxKeys = 4096;
  static constexpr std::size_t kMinKeyBytes = 16;
  static constexpr std::size_t kMaxKeyBytes = 512;

  /// A file with a key a line: "NAME KEY", or the key alone; empty lines and those that begin with
  /// '#' are skipped. kInvalidInput, naming the line and never the key, for anything else, for a
  /// name or a key that stands twice, and for a file that others than its owner may read.
  static Result<ApiKeys> read(const std::string& path);
  static Result<ApiKeys> parse(std::string_view text, std::string_view source);

  /// Whose key it is: a name, or "line-N". nullopt: nobody's. Takes as long for each key that is
  /// wrong.
  std::optional<std::string> owner_of(std::string_view key) const;

 private:
  using Digest = std::array<std::uint8_t, 32>;
  struct Key {
    Digest digest;
    std::string owner;
  };
  static Digest digest_of(std::string_view key);

  std::vector<Key> keys_;
};

}  // namespace airlock
