#include "runtime/channel/buffer_pool.h"

#include <map>
#include <mutex>
#include <utility>

#include "base/page_buffer.h"

namespace airlock {
namespace {

/// What PageBuffer makes of so many bytes, rounded up to an eighth of the power of two below:
/// similar sizes find each other's buffers.
std::size_t capacity_for(std::size_t bytes) {
  constexpr std::size_t kHugePage = std::size_t{2} << 20;
  std::size_t step = bytes > kHugePage ? kHugePage : 4096;
  while (step * 16 < bytes) step *= 2;
  return (bytes + step - 1) / step * step;
}

}  // namespace

struct BufferPool::Shelf {
  /// A buffer in use, which its last owner takes home.
  struct Loan {
    Loan(std::shared_ptr<Shelf> from, PageBuffer lent)
        : shelf(std::move(from)), pages(std::move(lent)) {}
    ~Loan() { shelf->put_back(std::move(pages)); }

    const std::shared_ptr<Shelf> shelf;
    PageBuffer pages;
  };

  explicit Shelf(std::size_t max_bytes) : max_cached_bytes(max_bytes) {}

  void clear() {
    const std::lock_guard lock(mutex);
    free.clear();
    cached_bytes = 0;
  }

  /// What is too much goes back to the system, after the lock.
  void put_back(PageBuffer pages) {
    const std::lock_guard lock(mutex);
    const std::size_t capacity = pages.bytes();
    if (cached_bytes + capacity > max_cached_bytes) return;
    cached_bytes += capacity;
    free.emplace(capacity, std::move(pages));
  }

  Result<PageBuffer> take(std::size_t capacity) {
    {
      const std::lock_guard lock(mutex);
      if (const auto found = free.find(capacity); found != free.end()) {
        PageBuffer pages = std::move(found->second);
        free.erase(found);
        cached_bytes -= capacity;
        return pages;
      }
    }
    auto pages = PageBuffer::allocate(capacity);
    if (pages.ok()) return pages;
    clear();  // makes room in the system by dropping what nobody uses
    return PageBuffer::allocate(capacity);
  }

  std::mutex mutex;
  std::size_t max_cached_bytes;
  std::size_t cached_bytes = 0;
  std::multimap<std::size_t, PageBuffer> free;  // by capacity
};

BufferPool::BufferPool(std::size_t max_cached_bytes)
    : shelf_(std::make_shared<Shelf>(max_cached_bytes)) {}

BufferPool::~BufferPool() {
  {
    const std::lock_guard lock(shelf_->mutex);
    shelf_->max_cached_bytes = 0;  // from now on nothing is kept
  }
  shelf_->clear();
}

std::size_t BufferPool::cached_bytes() const {
  const std::lock_guard lock(shelf_->mutex);
  return shelf_->cached_bytes;
}

Result<PooledBuffer> BufferPool::take(std::size_t bytes) {
  if (bytes == 0) return PooledBuffer();
  auto pages = shelf_->take(capacity_for(bytes));
  if (!pages.ok()) {
    return Status(StatusCode::kResourceExhausted, "no memory for a tensor of {} bytes", bytes);
  }
  const auto loan = std::make_shared<Shelf::Loan>(shelf_, std::move(pages).value());
  return PooledBuffer{{loan, loan->pages.data()}, bytes};
}

}  // namespace airlock
