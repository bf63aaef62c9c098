#include "runtime/cpu/scratch.h"

#include <fmt/format.h>
#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <limits>

namespace airlock {

namespace {

constexpr std::size_t kPage = 4096;
constexpr std::size_t kHugePage = std::size_t{2} << 20;
constexpr std::size_t kMaxIdleBuffers = 32;
constexpr std::size_t kMaxIdleBytes = std::size_t{512} << 20;

constexpr std::size_t round_up(std::size_t value, std::size_t unit) {
  return (value + unit - 1) / unit * unit;
}

/// Sizes in steps of an eighth of their power of two, so that a slightly longer prompt finds the
/// same buffers.
std::size_t size_class(std::size_t bytes) {
  const std::size_t step = std::max(kPage, std::bit_floor(std::max<std::size_t>(bytes, 1)) / 8);
  return round_up(std::max<std::size_t>(bytes, 1), step);
}

}  // namespace

Result<PageBuffer> PageBuffer::allocate(std::size_t bytes) {
  if (bytes == 0 || bytes > std::numeric_limits<std::size_t>::max() / 2) {
    return Status(StatusCode::kResourceExhausted, fmt::format("cannot allocate {} bytes", bytes));
  }
  const std::size_t length = round_up(bytes, bytes >= kHugePage ? kHugePage : kPage);
  void* data = ::mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) {
    return Status(StatusCode::kResourceExhausted, fmt::format("no memory for {} bytes", bytes));
  }
  // Only a wish: without huge pages the buffer is as good and a little slower.
  if (length >= kHugePage) (void)::madvise(data, length, MADV_HUGEPAGE);
  return PageBuffer(static_cast<std::byte*>(data), length);
}

PageBuffer::~PageBuffer() {
  if (data_ != nullptr) ::munmap(data_, bytes_);
}

Result<ScratchPool::Buffer> ScratchPool::take(std::size_t bytes) {
  const std::size_t wanted = size_class(bytes);
  auto best = idle_.end();
  for (auto it = idle_.begin(); it != idle_.end(); ++it) {
    // A buffer far too large stays for the op that needs it.
    if (it->bytes() < wanted || it->bytes() / 4 > wanted + kHugePage) continue;
    if (best == idle_.end() || it->bytes() < best->bytes()) best = it;
  }
  if (best == idle_.end()) {
    ASSIGN_OR_RETURN(PageBuffer pages, PageBuffer::allocate(wanted));
    return Buffer(this, std::move(pages));
  }
  PageBuffer pages = std::move(*best);
  idle_.erase(best);
  idle_bytes_ -= pages.bytes();
  return Buffer(this, std::move(pages));
}

void ScratchPool::give_back(PageBuffer pages) {
  if (pages.bytes() > kMaxIdleBytes) return;
  idle_bytes_ += pages.bytes();
  idle_.push_back(std::move(pages));
  while (idle_bytes_ > kMaxIdleBytes || idle_.size() > kMaxIdleBuffers) {
    idle_bytes_ -= idle_.front().bytes();  // the one that lay unused the longest
    idle_.erase(idle_.begin());
  }
}

}  // namespace airlock
