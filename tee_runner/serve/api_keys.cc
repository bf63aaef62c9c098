#include "tee_runner/serve/api_keys.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>

#include <algorithm>
#include <set>
#include <utility>

#include "base/readable_file.h"

namespace airlock {
namespace {

constexpr std::uint64_t kMaxFileBytes = std::uint64_t{4} << 20;
constexpr std::string_view kBlanks = " \t\r";

bool is_visible(std::string_view text) {
  return std::ranges::all_of(text, [](char c) { return c > ' ' && c < 0x7f; });
}

std::string_view trimmed(std::string_view text) {
  const std::size_t begin = text.find_first_not_of(kBlanks);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kBlanks) + 1 - begin);
}

}  // namespace

ApiKeys::Digest ApiKeys::digest_of(std::string_view key) {
  Digest digest;
  CHECK(EVP_Digest(key.data(), key.size(), digest.data(), nullptr, EVP_sha256(), nullptr) == 1);
  return digest;
}

Result<ApiKeys> ApiKeys::read(const std::string& path) {
  ASSIGN_OR_RETURN(std::string text, read_private_file(path, kMaxFileBytes));
  auto keys = parse(text, path);
  OPENSSL_cleanse(text.data(), text.size());
  return keys;
}

Result<ApiKeys> ApiKeys::parse(std::string_view text, std::string_view source) {
  ApiKeys keys;
  std::set<std::string> owners;
  std::set<Digest> digests;
  for (std::size_t number = 1; !text.empty(); ++number) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    const std::string_view line = trimmed(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
    if (line.empty() || line.front() == '#') continue;
    const auto refuse = [&](std::string_view what) {
      return Status(StatusCode::kInvalidInput, "{}: line {} {}", source, number, what);
    };
    const std::size_t blank = line.find_first_of(kBlanks);
    const std::string_view key =
        blank == std::string_view::npos ? line : trimmed(line.substr(blank));
    if (!is_visible(key) || !is_visible(line.substr(0, blank)))
      return refuse("is neither KEY nor NAME KEY, in visible ASCII characters");
    if (key.size() < kMinKeyBytes || key.size() > kMaxKeyBytes) {
      return refuse(fmt::format("has a key of {} characters, expected {} to {}", key.size(),
                                kMinKeyBytes, kMaxKeyBytes));
    }
    std::string owner = blank == std::string_view::npos ? "line-" + std::to_string(number)
                                                        : std::string(line.substr(0, blank));
    const Digest digest = digest_of(key);
    if (!owners.insert(owner).second) return refuse("has the name of another line");
    if (!digests.insert(digest).second) return refuse("has the key of another line");
    if (keys.keys_.size() == kMaxKeys) return refuse("is one too many");
    keys.keys_.push_back({digest, std::move(owner)});
  }
  if (keys.keys_.empty()) return Status(StatusCode::kInvalidInput, "{}: has no key", source);
  return keys;
}

std::optional<std::string> ApiKeys::owner_of(std::string_view key) const {
  const Digest digest = digest_of(key.substr(0, kMaxKeyBytes + 1));
  const Key* found = nullptr;
  for (const Key& each : keys_) {
    if (CRYPTO_memcmp(each.digest.data(), digest.data(), digest.size()) == 0) found = &each;
  }
  return found == nullptr ? std::nullopt : std::optional(found->owner);
}

}  // namespace airlock
