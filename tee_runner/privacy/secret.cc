#include "tee_runner/privacy/secret.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <span>

#include "base/file.h"
#include "base/random.h"

namespace airlock {

namespace {

constexpr std::size_t kSecretBytes = 32;
constexpr std::size_t kSaltBytes = 16;

Status fill(std::span<std::byte> bytes) {
  std::array<std::uint64_t, kSecretBytes / sizeof(std::uint64_t)> numbers{};
  RETURN_IF_ERROR(fill_random(numbers));
  std::memcpy(bytes.data(), numbers.data(), bytes.size());
  wipe(std::as_writable_bytes(std::span(numbers)));
  return {};
}

std::size_t page_bytes() { return static_cast<std::size_t>(::sysconf(_SC_PAGESIZE)); }

}  // namespace

BootSecret::BootSecret(std::byte* page) : page_(page), pid_(::getpid()) {}

BootSecret::~BootSecret() {
  wipe({page_, kSecretBytes});
  (void)::munmap(page_, page_bytes());
}

Result<std::unique_ptr<BootSecret>> BootSecret::create() {
  void* const page =
      ::mmap(nullptr, page_bytes(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (page == MAP_FAILED) return os_error("map a page for keys", errno);
  std::unique_ptr<BootSecret> secret(new BootSecret(static_cast<std::byte*>(page)));
  if (::madvise(page, page_bytes(), MADV_WIPEONFORK) != 0)
    return os_error("keep keys from a fork", errno);
  (void)::madvise(page, page_bytes(), MADV_DONTDUMP);
  // Refused where the limit on locked memory is 0.
  (void)::mlock(page, page_bytes());
  RETURN_IF_ERROR(fill({secret->page_, kSecretBytes}));
  return secret;
}

Status BootSecret::check_process() const {
  if (::getpid() == pid_) return {};
  return {StatusCode::kInternal, "this process is a fork of the one that has the keys"};
}

Result<PadKey> BootSecret::draw_key(std::string_view label) const {
  RETURN_IF_ERROR(check_process());
  std::array<std::byte, kSaltBytes> salt{};
  RETURN_IF_ERROR(fill(salt));
  return derive_key(std::span<const std::byte, kSecretBytes>(page_, kSecretBytes), salt, label);
}

}  // namespace airlock
