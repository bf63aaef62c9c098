#include "pool/mapping.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstdint>

#include "base/check.h"
#include "base/file.h"

namespace airlock {
namespace {

constexpr std::size_t kHugePageBytes = std::size_t{2} << 20;
constexpr int kNothing = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;

Status no_address_space(std::size_t bytes) {
  return {StatusCode::kResourceExhausted, "cannot map {} bytes of a pool: {}", bytes,
          os_message(errno)};
}

/// Where the system makes huge pages of shared memory for those who ask.
void ask_for_huge_pages(void* data, std::size_t bytes) {
  (void)::madvise(data, bytes, MADV_HUGEPAGE);
}

}  // namespace

Result<Mapping> Mapping::of(const UniqueFd& memory, std::size_t bytes) {
  void* const data = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, memory.get(), 0);
  if (data == MAP_FAILED) return no_address_space(bytes);
  ask_for_huge_pages(data, bytes);
  return Mapping(static_cast<std::byte*>(data), bytes);
}

Result<Mapping> Mapping::reserve(std::size_t bytes) {
  const std::size_t most = bytes + kHugePageBytes;
  void* const data = ::mmap(nullptr, most, PROT_NONE, kNothing, -1, 0);
  if (data == MAP_FAILED) return no_address_space(bytes);
  const auto begin = reinterpret_cast<std::uintptr_t>(data);
  const std::size_t skipped = (kHugePageBytes - begin % kHugePageBytes) % kHugePageBytes;
  auto* const used = static_cast<std::byte*>(data) + skipped;
  if (skipped > 0) ::munmap(data, skipped);
  if (skipped < kHugePageBytes) ::munmap(used + bytes, kHugePageBytes - skipped);
  return Mapping(used, bytes);
}

Mapping::~Mapping() {
  if (data_ != nullptr) ::munmap(data_, bytes_);
}

Status Mapping::lay(const UniqueFd& memory, std::size_t at, std::size_t bytes) const {
  CHECK(at <= bytes_ && bytes <= bytes_ - at);
  void* const place = data_ + at;
  if (::mmap(place, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, memory.get(), 0) !=
      place) {
    return no_address_space(bytes);
  }
  ask_for_huge_pages(place, bytes);
  return {};
}

void Mapping::clear(std::size_t at, std::size_t bytes) const {
  CHECK(at <= bytes_ && bytes <= bytes_ - at);
  // Where the system has no room for one more mapping what lies there stays until the next one.
  (void)::mmap(data_ + at, bytes, PROT_NONE, kNothing | MAP_FIXED, -1, 0);
}

}  // namespace airlock
