#pragma once

#include <array>
#include <compare>
#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

// OpenSSL's EVP_PKEY.
struct evp_pkey_st;

namespace airlock {

/// Who a side of a tcp connection is: the public half of an Ed25519 key (RFC 8032).
struct PublicKey {
  static constexpr std::size_t kBytes = 32;
  std::array<std::byte, kBytes> bytes{};
  // What the file calls it; not compared.
  std::string name;

  bool operator==(const PublicKey& other) const { return bytes == other.bytes; }
  /// "ed25519 BASE64 NAME", the one line of a file NAME.pub.
  std::string line() const;
  /// kInvalidInput: it is no such line.
  static Result<PublicKey> parse(std::string_view line);
};

/// Both halves. Wiped at its end, as far as OpenSSL does.
class SecretKey {
 public:
  /// A new one, by chance.
  static Result<SecretKey> make(std::string name);
  /// A file as write() makes it: PKCS #8 in PEM (RFC 5958), without a passphrase. kInvalidInput: it
  /// is none, is not one's own, or others may read it.
  static Result<SecretKey> read(const std::string& path);
  /// Makes `path` with mode 0600. kInUse: something is there already; else as os_error().
  Status write(const std::string& path) const;

  const PublicKey& public_key() const { return public_key_; }
  evp_pkey_st* get() const { return key_.get(); }

 private:
  SecretKey(std::shared_ptr<evp_pkey_st> key, PublicKey public_key)
      : key_(std::move(key)), public_key_(std::move(public_key)) {}
  static Result<SecretKey> of(std::shared_ptr<evp_pkey_st> key, std::string name);

  std::shared_ptr<evp_pkey_st> key_;
  PublicKey public_key_;
};

/// The key of a NAME.pub. kInvalidInput: not exactly one.
Result<PublicKey> read_public_key(const std::string& path);
/// The keys of a file: a line each, empty ones and those that begin with '#' left out. At most
/// 4096. kInvalidInput, naming the line; also where there is none.
Result<std::vector<PublicKey>> read_public_keys(const std::string& path);

}  // namespace airlock
