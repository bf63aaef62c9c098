#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "runtime/channel/socket_stream.h"
#include "runtime/secure/keys.h"

namespace airlock {

/// Whom a side of a tcp connection talks to.
struct KnownPeers {
  std::vector<PublicKey> keys;
  // Where they are from, for messages.
  std::string file;
};

/// What a side sends under one key, before it takes the next one (RFC 8446, "Limits on Key Usage":
/// 2^24.5 records of AES-GCM).
inline constexpr std::uint64_t kBytesAKey = std::uint64_t{64} << 30;

/// Connections in TLS 1.3 (RFC 8446) in which each side shows an Ed25519 key that the other side
/// knows: X25519, AES-128-GCM or ChaCha20-Poly1305, no resumption. A certificate is what TLS wants
/// around a key; nothing else in it is looked at. Whoever does not know the other's key ends the
/// connection before any byte of it is read. docs/adr/0025. kInternal: OpenSSL lacks one of these.
Result<std::shared_ptr<const StreamSecurity>> make_tls(const SecretKey& own, KnownPeers peers,
                                                       std::uint64_t bytes_a_key = kBytesAKey);

}  // namespace airlock
