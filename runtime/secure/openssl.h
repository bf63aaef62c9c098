#pragma once
// Internal to runtime/secure.

#include <openssl/bio.h>
#include <openssl/crypto.h>
#include <openssl/err.h>

#include <memory>
#include <optional>
#include <string_view>

#include "base/freed.h"
#include "base/status.h"
#include "runtime/secure/keys.h"

namespace airlock::openssl {

using Memory = std::unique_ptr<BIO, Freed<BIO_free_all>>;

/// The public half of an Ed25519 key; nullopt: it is of another kind, or none.
std::optional<PublicKey> public_half(const EVP_PKEY* key);

/// What nobody expects; nearly always memory. Leaves no error behind in this thread.
inline Status failure(std::string_view what) {
  ERR_clear_error();
  return {StatusCode::kInternal, "OpenSSL cannot {}", what};
}

}  // namespace airlock::openssl
