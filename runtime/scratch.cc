#include "runtime/scratch.h"

#include <algorithm>
#include <bit>

namespace airlock {

namespace {

constexpr std::size_t kPage = 4096;
constexpr std::size_t kHugePage = std::size_t{2} << 20;
constexpr std::size_t kMaxIdleBuffers = 32;
constexpr std::size_t kMaxIdleBytes = std::size_t{512} << 20;

/// Sizes in steps of an eighth of their power of two, so that a slightly longer prompt finds the
/// same buffers.
std::size_t size_class(std::size_t bytes) {
  const std::size_t wanted = std::max<std::size_t>(bytes, 1);
  const std::size_t step = std::max(kPage, std::bit_floor(wanted) / 8);
  return (wanted + step - 1) / step * step;
}

}  // namespace

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
