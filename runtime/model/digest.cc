#include "runtime/model/digest.h"

#include <fmt/format.h>
#include <openssl/evp.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <filesystem>
#include <new>

#include "base/output_file.h"
#include "base/readable_file.h"

namespace airlock {

namespace {

constexpr std::uint64_t kMaxCacheBytes = 1 << 20;

std::string cache_directory() {
  const char* cache = std::getenv("XDG_CACHE_HOME");
  if (cache != nullptr && cache[0] == '/') return std::string(cache) + "/airlock";
  const char* home = std::getenv("HOME");
  if (home != nullptr && home[0] == '/') return std::string(home) + "/.cache/airlock";
  return {};
}

bool is_digest(std::string_view text) {
  return text.size() == kSha256HexDigits &&
         text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

}  // namespace

struct Sha256::State {
  EVP_MD_CTX* context = EVP_MD_CTX_new();
};

Sha256::Sha256() : state_(std::make_unique<State>()) {
  // Both lack nothing but memory.
  if (state_->context == nullptr || EVP_DigestInit_ex(state_->context, EVP_sha256(), nullptr) != 1)
    throw std::bad_alloc();
}

Sha256::~Sha256() { EVP_MD_CTX_free(state_->context); }

void Sha256::add(std::span<const std::byte> bytes) {
  CHECK(EVP_DigestUpdate(state_->context, bytes.data(), bytes.size()) == 1);
}

std::string Sha256::finish() {
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
  unsigned int digest_bytes = 0;
  CHECK(EVP_DigestFinal_ex(state_->context, digest.data(), &digest_bytes) == 1);
  std::string hex;
  for (unsigned int i = 0; i < digest_bytes; ++i) hex += fmt::format("{:02x}", digest[i]);
  return hex;
}

std::string sha256_of(std::span<const std::byte> bytes) {
  Sha256 hash;
  hash.add(bytes);
  return hash.finish();
}

DigestCache::DigestCache(std::string_view key) : directory_(cache_directory()) {
  if (directory_.empty()) return;
  const std::string name = sha256_of(std::as_bytes(std::span(key)));
  path_ = fmt::format("{}/digest-{}", directory_, name.substr(0, 32));
}

// The file is the digest, a newline, and the identity; of a text its digest, a newline, the
// identity and the text.
std::optional<std::string> DigestCache::read() const {
  if (path_.empty()) return std::nullopt;
  struct stat info {};
  if (::lstat(path_.c_str(), &info) != 0 || !S_ISREG(info.st_mode) || info.st_uid != ::geteuid())
    return std::nullopt;
  auto text = read_text_file(path_, kMaxCacheBytes);
  if (!text.ok()) return std::nullopt;
  const std::string_view whole = *text;
  if (whole.size() <= kSha256HexDigits || whole[kSha256HexDigits] != '\n') return std::nullopt;
  if (!is_digest(whole.substr(0, kSha256HexDigits))) return std::nullopt;
  return std::move(text).value();
}

std::optional<std::string> DigestCache::find(std::string_view identity) const {
  const std::optional<std::string> whole = read();
  if (!whole || std::string_view(*whole).substr(kSha256HexDigits + 1) != identity)
    return std::nullopt;
  return whole->substr(0, kSha256HexDigits);
}

std::optional<std::string> DigestCache::find_text(std::string_view identity) const {
  const std::optional<std::string> whole = read();
  if (!whole) return std::nullopt;
  const std::string_view rest = std::string_view(*whole).substr(kSha256HexDigits + 1);
  if (!rest.starts_with(identity)) return std::nullopt;
  const std::string_view text = rest.substr(identity.size());
  if (sha256_of(std::as_bytes(std::span(text))) != whole->substr(0, kSha256HexDigits))
    return std::nullopt;
  return std::string(text);
}

void DigestCache::store(std::string_view identity, std::string_view digest) const {
  if (is_digest(digest)) write(digest, identity);
}

void DigestCache::store_text(std::string_view identity, std::string_view text) const {
  write(sha256_of(std::as_bytes(std::span(text))), fmt::format("{}{}", identity, text));
}

void DigestCache::write(std::string_view digest, std::string_view rest) const {
  if (path_.empty() || rest.size() > kMaxCacheBytes / 2) return;
  std::error_code ignored;
  std::filesystem::create_directories(std::filesystem::path(directory_).parent_path(), ignored);
  ::mkdir(directory_.c_str(), 0700);
  const auto file = OutputFile::open(path_);
  if (file.ok()) (void)file->write(fmt::format("{}\n{}", digest, rest));
}

}  // namespace airlock
