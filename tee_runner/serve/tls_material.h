#pragma once

#include <string>

#include "base/status.h"

namespace airlock {

/// A server's certificate and its key, as PEM.
struct TlsMaterial {
  std::string certificate_pem;  // with the chain behind it
  std::string key_pem;
  // SHA-256 of the certificate's DER, in hex: what a client, or an attestation, pins.
  std::string fingerprint;

  /// Of two files. kInvalidInput: they are no certificate and key, do not belong together, or
  /// others may read the key.
  static Result<TlsMaterial> read(const std::string& certificate_path, const std::string& key_path);
  /// A new P-256 key that never leaves this process's memory, and a certificate for a year that it
  /// signs itself, for `host` (a name or an address), localhost and the loopback addresses.
  static Result<TlsMaterial> self_signed(const std::string& host);
};

}  // namespace airlock
