#include "tee_runner/serve/tls_material.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <openssl/bio.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

#include <array>
#include <cstdint>
#include <memory>

#include "base/freed.h"
#include "base/readable_file.h"

namespace airlock {
namespace {

constexpr std::uint64_t kMaxPemBytes = std::uint64_t{1} << 20;
constexpr long kYearS = 365L * 24 * 3600;
constexpr long kHourS = 3600;

using Key = std::unique_ptr<EVP_PKEY, Freed<EVP_PKEY_free>>;
using Certificate = std::unique_ptr<X509, Freed<X509_free>>;
using Memory = std::unique_ptr<BIO, Freed<BIO_free_all>>;
using Extension = std::unique_ptr<X509_EXTENSION, Freed<X509_EXTENSION_free>>;

Status failed(std::string_view what) { return {StatusCode::kInternal, "OpenSSL cannot {}", what}; }

Memory reader_of(const std::string& text) {
  return Memory(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
}

/// What `write` puts into a buffer.
template <typename Write>
std::string text_of(Write write) {
  const Memory memory(BIO_new(BIO_s_mem()));
  if (memory == nullptr || write(memory.get()) != 1) return {};
  char* data = nullptr;
  const long bytes = BIO_get_mem_data(memory.get(), &data);
  return {data, static_cast<std::size_t>(bytes)};
}

Result<std::string> fingerprint_of(const X509* certificate) {
  std::array<std::uint8_t, EVP_MAX_MD_SIZE> digest;
  unsigned int bytes = 0;
  if (X509_digest(certificate, EVP_sha256(), digest.data(), &bytes) != 1)
    return failed("hash a certificate");
  std::string text;
  for (unsigned int i = 0; i < bytes; ++i) text += fmt::format("{:02x}", digest[i]);
  return text;
}

/// No prompt for a passphrase.
int no_passphrase(char* /*buffer*/, int /*size*/, int /*writes*/, void* /*user*/) { return -1; }

/// "DNS:NAME" or "IP:ADDRESS".
std::string subject(const std::string& host) {
  in6_addr parsed{};
  const bool is_address = ::inet_pton(AF_INET, host.c_str(), &parsed) == 1 ||
                          ::inet_pton(AF_INET6, host.c_str(), &parsed) == 1;
  return (is_address ? "IP:" : "DNS:") + host;
}

bool add_extension(X509* certificate, int kind, const std::string& value) {
  X509V3_CTX context;
  X509V3_set_ctx_nodb(&context);
  X509V3_set_ctx(&context, certificate, certificate, nullptr, nullptr, 0);
  const Extension extension(X509V3_EXT_conf_nid(nullptr, &context, kind, value.c_str()));
  return extension != nullptr && X509_add_ext(certificate, extension.get(), -1) == 1;
}

bool fill(X509* certificate, EVP_PKEY* key, const std::string& host) {
  std::array<std::uint8_t, 16> serial;
  if (RAND_bytes(serial.data(), static_cast<int>(serial.size())) != 1) return false;
  serial[0] &= 0x7f;
  const std::unique_ptr<BIGNUM, Freed<BN_free>> number(
      BN_bin2bn(serial.data(), static_cast<int>(serial.size()), nullptr));
  const std::string name = "airlock";
  X509_NAME* const owner = X509_get_subject_name(certificate);
  const std::string names = subject(host) + ",DNS:localhost,IP:127.0.0.1,IP:::1";
  return number != nullptr && X509_set_version(certificate, 2) == 1 &&
         BN_to_ASN1_INTEGER(number.get(), X509_get_serialNumber(certificate)) != nullptr &&
         X509_gmtime_adj(X509_getm_notBefore(certificate), -kHourS) != nullptr &&
         X509_gmtime_adj(X509_getm_notAfter(certificate), kYearS) != nullptr &&
         X509_set_pubkey(certificate, key) == 1 &&
         X509_NAME_add_entry_by_txt(owner, "CN", MBSTRING_ASC,
                                    reinterpret_cast<const unsigned char*>(name.c_str()), -1, -1,
                                    0) == 1 &&
         X509_set_issuer_name(certificate, owner) == 1 &&
         add_extension(certificate, NID_subject_alt_name, names) &&
         // Its own authority, for clients that are given it to trust.
         add_extension(certificate, NID_basic_constraints, "critical,CA:TRUE,pathlen:0") &&
         add_extension(certificate, NID_ext_key_usage, "serverAuth");
}

}  // namespace

Result<TlsMaterial> TlsMaterial::read(const std::string& certificate_path,
                                      const std::string& key_path) {
  TlsMaterial tls;
  ASSIGN_OR_RETURN(tls.certificate_pem, read_text_file(certificate_path, kMaxPemBytes));
  ASSIGN_OR_RETURN(tls.key_pem, read_private_file(key_path, kMaxPemBytes));
  const Certificate certificate(
      PEM_read_bio_X509(reader_of(tls.certificate_pem).get(), nullptr, no_passphrase, nullptr));
  if (certificate == nullptr)
    return Status(StatusCode::kInvalidInput, "{}: is no certificate in PEM", certificate_path);
  const Key key(
      PEM_read_bio_PrivateKey(reader_of(tls.key_pem).get(), nullptr, no_passphrase, nullptr));
  if (key == nullptr) {
    return Status(StatusCode::kInvalidInput, "{}: is no private key in PEM without a passphrase",
                  key_path);
  }
  if (X509_check_private_key(certificate.get(), key.get()) != 1) {
    return Status(StatusCode::kInvalidInput, "{} is not the key of the certificate in {}", key_path,
                  certificate_path);
  }
  ASSIGN_OR_RETURN(tls.fingerprint, fingerprint_of(certificate.get()));
  return tls;
}

Result<TlsMaterial> TlsMaterial::self_signed(const std::string& host) {
  const Key key(EVP_EC_gen("P-256"));
  const Certificate certificate(X509_new());
  if (key == nullptr || certificate == nullptr) return failed("make a key");
  if (!fill(certificate.get(), key.get(), host) ||
      X509_sign(certificate.get(), key.get(), EVP_sha256()) <= 0)
    return failed("make a certificate for '" + host + "'");
  TlsMaterial tls;
  tls.certificate_pem = text_of([&](BIO* to) { return PEM_write_bio_X509(to, certificate.get()); });
  tls.key_pem = text_of([&](BIO* to) {
    return PEM_write_bio_PrivateKey(to, key.get(), nullptr, nullptr, 0, nullptr, nullptr);
  });
  if (tls.certificate_pem.empty() || tls.key_pem.empty()) return failed("write a certificate");
  ASSIGN_OR_RETURN(tls.fingerprint, fingerprint_of(certificate.get()));
  return tls;
}

}  // namespace airlock
