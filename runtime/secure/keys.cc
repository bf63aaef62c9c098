#include "runtime/secure/keys.h"

#include <fcntl.h>
#include <openssl/bio.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <utility>

#include "base/file.h"
#include "base/readable_file.h"
#include "base/unique_fd.h"
#include "runtime/secure/openssl.h"

namespace airlock {
namespace {

constexpr std::string_view kKind = "ed25519";
constexpr std::size_t kMaxKeys = 4096;
constexpr std::size_t kMaxNameBytes = 64;
constexpr std::uint64_t kMaxKeyFileBytes = 4096;
constexpr std::uint64_t kMaxListBytes = std::uint64_t{1} << 20;
constexpr std::string_view kBlanks = " \t\r";
// Of 32 bytes: eleven groups of four characters, the last one with a '='.
constexpr std::size_t kBase64Bytes = 44;

/// The word in front of `text`, which is taken away with what is blank around it.
std::string_view take_word(std::string_view& text) {
  const auto skip = [&] {
    text.remove_prefix(std::min(text.find_first_not_of(kBlanks), text.size()));
  };
  skip();
  const std::string_view word = text.substr(0, text.find_first_of(kBlanks));
  text.remove_prefix(word.size());
  skip();
  return word;
}

/// No prompt for a passphrase.
int no_passphrase(char* /*buffer*/, int /*size*/, int /*writes*/, void* /*user*/) { return -1; }

bool is_name(std::string_view name) {
  return name.size() <= kMaxNameBytes &&
         std::ranges::all_of(name, [](char c) { return c > ' ' && c < 0x7f; });
}

/// The last part of a path, without ".key": what a key is called.
std::string name_of_file(std::string_view path) {
  path.remove_prefix(path.rfind('/') + 1);
  if (path.ends_with(".key")) path.remove_suffix(4);
  return is_name(path) ? std::string(path) : std::string();
}

}  // namespace

std::optional<PublicKey> openssl::public_half(const EVP_PKEY* key) {
  PublicKey half;
  std::size_t bytes = half.bytes.size();
  if (key == nullptr || EVP_PKEY_get_id(key) != EVP_PKEY_ED25519 ||
      EVP_PKEY_get_raw_public_key(key, reinterpret_cast<unsigned char*>(half.bytes.data()),
                                  &bytes) != 1)
    return std::nullopt;
  return half;
}

std::string PublicKey::line() const {
  std::array<unsigned char, kBase64Bytes + 1> text{};
  EVP_EncodeBlock(text.data(), reinterpret_cast<const unsigned char*>(bytes.data()),
                  static_cast<int>(bytes.size()));
  std::string line(kKind);
  line += ' ';
  line.append(reinterpret_cast<const char*>(text.data()), kBase64Bytes);
  if (!name.empty()) line += ' ' + name;
  return line;
}

Result<PublicKey> PublicKey::parse(std::string_view line) {
  const Status bad(StatusCode::kInvalidInput,
                   "is not \"ed25519 BASE64 NAME\", as a .pub file has it");
  const std::string_view kind = take_word(line);
  const std::string_view text = take_word(line);
  const std::string_view name = take_word(line);
  if (kind != kKind || text.size() != kBase64Bytes || !line.empty() || !is_name(name)) return bad;
  // Decoded, 44 characters are 33 bytes, the last one of the padding.
  std::array<unsigned char, kBytes + 1> bytes{};
  if (EVP_DecodeBlock(bytes.data(), reinterpret_cast<const unsigned char*>(text.data()),
                      static_cast<int>(text.size())) != static_cast<int>(bytes.size()))
    return bad;
  PublicKey key;
  key.name = name;
  std::transform(bytes.begin(), bytes.begin() + kBytes, key.bytes.begin(),
                 [](unsigned char byte) { return std::byte{byte}; });
  // One key has one text.
  if (key.line().substr(kKind.size() + 1, kBase64Bytes) != text) return bad;
  return key;
}

Result<SecretKey> SecretKey::of(std::shared_ptr<evp_pkey_st> key, std::string name) {
  std::optional<PublicKey> half = openssl::public_half(key.get());
  if (!half) return Status(StatusCode::kInvalidInput, "is no Ed25519 key");
  half->name = std::move(name);
  return SecretKey(std::move(key), std::move(*half));
}

Result<SecretKey> SecretKey::make(std::string name) {
  if (!is_name(name)) {
    return Status(StatusCode::kInvalidInput,
                  "'{}' is no name of a key: visible ASCII characters, at most {}", name,
                  kMaxNameBytes);
  }
  std::shared_ptr<EVP_PKEY> key(EVP_PKEY_Q_keygen(nullptr, nullptr, "ED25519"), EVP_PKEY_free);
  if (key == nullptr) return openssl::failure("make a key");
  return of(std::move(key), std::move(name));
}

Result<SecretKey> SecretKey::read(const std::string& path) {
  ASSIGN_OR_RETURN(std::string text, read_private_file(path, kMaxKeyFileBytes));
  const openssl::Memory memory(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
  std::shared_ptr<EVP_PKEY> key(
      memory == nullptr ? nullptr
                        : PEM_read_bio_PrivateKey(memory.get(), nullptr, no_passphrase, nullptr),
      EVP_PKEY_free);
  OPENSSL_cleanse(text.data(), text.size());
  ERR_clear_error();
  if (key == nullptr) {
    return Status(StatusCode::kInvalidInput,
                  "{}: is no private key in PEM without a passphrase (airlock_keygen makes one)",
                  path);
  }
  auto both = of(std::move(key), name_of_file(path));
  if (!both.ok()) return both.status().with_context(path);
  return both;
}

Status SecretKey::write(const std::string& path) const {
  const openssl::Memory memory(BIO_new(BIO_s_secmem()));
  if (memory == nullptr || PEM_write_bio_PrivateKey(memory.get(), key_.get(), nullptr, nullptr, 0,
                                                    nullptr, nullptr) != 1)
    return openssl::failure("write a key");
  char* data = nullptr;
  const long bytes = BIO_get_mem_data(memory.get(), &data);
  UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd.valid() && errno == EEXIST)
    return {StatusCode::kInUse, "{} is there already: a key is not replaced", path};
  if (!fd.valid()) return os_error("make " + path, errno);
  Status status = write_all(fd.get(), {data, static_cast<std::size_t>(bytes)}, path);
  if (status.ok() && ::fsync(fd.get()) != 0) status = os_error("write " + path, errno);
  if (!status.ok()) ::unlink(path.c_str());
  return status;
}

Result<PublicKey> read_public_key(const std::string& path) {
  ASSIGN_OR_RETURN(std::vector<PublicKey> keys, read_public_keys(path));
  if (keys.size() == 1) return std::move(keys.front());
  return Status(StatusCode::kInvalidInput, "{}: has {} keys, and one server is meant", path,
                keys.size());
}

Result<std::vector<PublicKey>> read_public_keys(const std::string& path) {
  ASSIGN_OR_RETURN(const std::string text, read_text_file(path, kMaxListBytes));
  std::vector<PublicKey> keys;
  std::string_view rest = text;
  for (std::size_t number = 1; !rest.empty(); ++number) {
    std::string_view line = rest.substr(0, rest.find('\n'));
    rest.remove_prefix(std::min(line.size() + 1, rest.size()));
    line.remove_prefix(std::min(line.find_first_not_of(kBlanks), line.size()));
    if (line.empty() || line.front() == '#') continue;
    auto key = PublicKey::parse(line);
    if (!key.ok())
      return Status(StatusCode::kInvalidInput, "{}: line {} {}", path, number,
                    key.status().message());
    if (keys.size() == kMaxKeys) {
      return Status(StatusCode::kInvalidInput, "{}: has more than {} keys", path, kMaxKeys);
    }
    keys.push_back(std::move(key).value());
  }
  if (keys.empty()) return Status(StatusCode::kInvalidInput, "{}: has no key", path);
  return keys;
}

}  // namespace airlock
