#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace airlock {

inline constexpr std::size_t kSha256HexDigits = 64;

/// A SHA-256 under way. One thread.
class Sha256 {
 public:
  Sha256();
  ~Sha256();

  void add(std::span<const std::byte> bytes);
  void add(std::string_view text) { add(std::as_bytes(std::span(text))); }
  /// 64 hex digits. Once.
  std::string finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

std::string sha256_of(std::span<const std::byte> bytes);

/// Remembers the digest of a model in $XDG_CACHE_HOME/airlock (else ~/.cache/airlock), one small
/// 0600 file a `key`, replaced atomically. `identity` is what must not have changed since. A cache
/// that cannot be read or written is as good as none.
class DigestCache {
 public:
  explicit DigestCache(std::string_view key);
  std::optional<std::string> find(std::string_view identity) const;
  void store(std::string_view identity, std::string_view digest) const;
  /// The same of any text; one too long is not remembered.
  std::optional<std::string> find_text(std::string_view identity) const;
  void store_text(std::string_view identity, std::string_view text) const;
  /// Empty where there is no directory to keep it in.
  const std::string& path() const { return path_; }

 private:
  std::optional<std::string> read() const;
  void write(std::string_view digest, std::string_view rest) const;

  std::string directory_;
  std::string path_;
};

}  // namespace airlock
