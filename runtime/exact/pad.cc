#include "runtime/exact/pad.h"

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <openssl/params.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <string>
#include <utility>

#include "base/check.h"

namespace airlock {

namespace {

static_assert(std::endian::native == std::endian::little, "words are little endian bytes");

constexpr std::size_t kBlockBytes = 16;
// Whole blocks, and as much as one call of the library may be given.
constexpr std::size_t kPieceBytes = std::size_t{1} << 24;
constexpr std::size_t kMostWords = (std::size_t{1} << 32) / sizeof(std::uint32_t);

struct FreeKdf {
  void operator()(EVP_KDF* kdf) const { EVP_KDF_free(kdf); }
  void operator()(EVP_KDF_CTX* context) const { EVP_KDF_CTX_free(context); }
};
struct FreeCipher {
  void operator()(EVP_CIPHER* cipher) const { EVP_CIPHER_free(cipher); }
  // Wipes the key schedule.
  void operator()(EVP_CIPHER_CTX* context) const { EVP_CIPHER_CTX_free(context); }
};

Status failed(const char* what) { return {StatusCode::kInternal, "OpenSSL failed to {}", what}; }

unsigned char* bytes_of(void* data) { return static_cast<unsigned char*>(data); }

/// The counter block of a place's first 16 bytes:
///   epoch u32 | layer u16 | linear u8 | domain u8, 0 | row u32, little endian; block u32, big
///   endian
/// of which the library counts up the last.
std::array<unsigned char, kBlockBytes> counter_of(const WordsPlace& place) {
  std::array<unsigned char, kBlockBytes> counter{};
  std::memcpy(counter.data(), &place.epoch, sizeof(place.epoch));
  std::memcpy(counter.data() + 4, &place.layer, sizeof(place.layer));
  counter[6] = static_cast<unsigned char>(place.linear);
  std::memcpy(counter.data() + 8, &place.row, sizeof(place.row));
  return counter;
}

}  // namespace

Result<PadKey> derive_key(std::span<const std::byte, 32> secret,
                          std::span<const std::byte, 16> salt, std::string_view label) {
  const std::unique_ptr<EVP_KDF, FreeKdf> kdf(EVP_KDF_fetch(nullptr, OSSL_KDF_NAME_HKDF, nullptr));
  if (kdf == nullptr) return failed("give HKDF");
  const std::unique_ptr<EVP_KDF_CTX, FreeKdf> context(EVP_KDF_CTX_new(kdf.get()));
  if (context == nullptr) return failed("give memory for HKDF");
  // The library asks for places that may be written, and writes none.
  std::array<std::byte, 32> key_copy{};
  std::array<std::byte, 16> salt_copy{};
  std::string label_copy(label);
  std::string digest = "SHA256";
  std::copy(secret.begin(), secret.end(), key_copy.begin());
  std::copy(salt.begin(), salt.end(), salt_copy.begin());
  const std::array<OSSL_PARAM, 5> parameters = {
      OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, digest.data(), 0),
      OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_KEY, key_copy.data(), key_copy.size()),
      OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_SALT, salt_copy.data(), salt_copy.size()),
      OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_INFO, label_copy.data(), label_copy.size()),
      OSSL_PARAM_construct_end()};
  PadKey key{};
  const int derived =
      EVP_KDF_derive(context.get(), bytes_of(key.data()), key.size(), parameters.data());
  OPENSSL_cleanse(key_copy.data(), key_copy.size());
  if (derived != 1) return failed("derive a key");
  Result<PadKey> result(key);
  OPENSSL_cleanse(key.data(), key.size());
  return result;
}

void wipe(std::span<std::byte> secret) { OPENSSL_cleanse(secret.data(), secret.size()); }

PadKey::~PadKey() { wipe(*this); }

struct WordStream::State {
  std::unique_ptr<EVP_CIPHER, FreeCipher> cipher;
  std::unique_ptr<EVP_CIPHER_CTX, FreeCipher> context;
};

WordStream::WordStream(std::unique_ptr<State> state) : state_(std::move(state)) {}
WordStream::WordStream(WordStream&&) noexcept = default;
WordStream& WordStream::operator=(WordStream&&) noexcept = default;
WordStream::~WordStream() = default;

Result<WordStream> WordStream::create(const PadKey& key) {
  auto state = std::make_unique<State>();
  state->cipher.reset(EVP_CIPHER_fetch(nullptr, "AES-128-CTR", nullptr));
  if (state->cipher == nullptr) return failed("give AES-128-CTR");
  state->context.reset(EVP_CIPHER_CTX_new());
  if (state->context == nullptr) return failed("give memory for AES");
  const auto* bytes = reinterpret_cast<const unsigned char*>(key.data());
  if (EVP_EncryptInit_ex2(state->context.get(), state->cipher.get(), bytes, nullptr, nullptr) != 1)
    return failed("take a key");
  return WordStream(std::move(state));
}

Status WordStream::words(const WordsPlace& place, std::span<std::uint32_t> out) {
  CHECK(out.size() <= kMostWords);
  EVP_CIPHER_CTX* context = state_->context.get();
  const auto counter = counter_of(place);
  if (EVP_EncryptInit_ex2(context, nullptr, nullptr, counter.data(), nullptr) != 1)
    return failed("take a counter");
  // The cipher's stream is what it makes of zeros.
  std::fill(out.begin(), out.end(), 0U);
  auto* at = bytes_of(out.data());
  for (std::size_t left = out.size_bytes(); left > 0;) {
    const std::size_t piece = std::min(left, kPieceBytes);
    int written = 0;
    if (EVP_EncryptUpdate(context, at, &written, at, static_cast<int>(piece)) != 1 ||
        static_cast<std::size_t>(written) != piece)
      return failed("encrypt");
    at += piece;
    left -= piece;
  }
  return {};
}

}  // namespace airlock
