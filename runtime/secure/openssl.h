#pragma once
// Internal to runtime/secure.

#include <openssl/bio.h>
#include <openssl/crypto.h>
#include <openssl/err.h>

#include <memory>
#include <string_view>

#include "base/status.h"

namespace airlock::openssl {

template <auto kFree>
struct Freed {
  void operator()(auto* object) const { kFree(object); }
};
using Memory = std::unique_ptr<BIO, Freed<BIO_free_all>>;

/// What nobody expects; nearly always memory. Leaves no error behind in this thread.
inline Status failure(std::string_view what) {
  ERR_clear_error();
  return {StatusCode::kInternal, "OpenSSL cannot {}", what};
}

}  // namespace airlock::openssl
