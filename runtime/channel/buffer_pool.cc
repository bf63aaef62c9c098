#include "runtime/channel/buffer_pool.h"

#include <sys/mman.h>

#include <cstring>
#include <map>
#include <mutex>

namespace airlock {
namespace {

constexpr std::size_t kPageBytes = 4096;
constexpr std::size_t kHugePageBytes = std::size_t{2} << 20;

/// Rounded up to an eighth of the power of two below, and to a page: similar sizes find each
/// other's buffers.
std::size_t capacity_for(std::size_t bytes) {
  std::size_t step = kPageBytes;
  while (step * 16 < bytes) step *= 2;
  return (bytes + step - 1) / step * step;
}

}  // namespace

struct BufferPool::Shelf {
  explicit Shelf(std::size_t max_bytes) : max_cached_bytes(max_bytes) {}
  Shelf(const Shelf&) = delete;
  Shelf& operator=(const Shelf&) = delete;
  ~Shelf() { clear(); }

  void clear() {
    for (const auto& [capacity, data] : free) ::munmap(data, capacity);
    free.clear();
    cached_bytes = 0;
  }

  void put_back(std::byte* data, std::size_t capacity) {
    {
      const std::lock_guard lock(mutex);
      if (open && cached_bytes + capacity <= max_cached_bytes) {
        free.emplace(capacity, data);
        cached_bytes += capacity;
        return;
      }
    }
    ::munmap(data, capacity);
  }

  std::byte* find(std::size_t capacity) {
    const std::lock_guard lock(mutex);
    const auto it = free.find(capacity);
    if (it == free.end()) return nullptr;
    std::byte* data = it->second;
    free.erase(it);
    cached_bytes -= capacity;
    return data;
  }

  /// Makes room in the system by dropping what nobody uses.
  void drop_all() {
    const std::lock_guard lock(mutex);
    clear();
  }

  std::mutex mutex;
  const std::size_t max_cached_bytes;
  std::size_t cached_bytes = 0;
  bool open = true;
  std::multimap<std::size_t, std::byte*> free;  // capacity -> data
};

BufferPool::BufferPool(std::size_t max_cached_bytes)
    : shelf_(std::make_shared<Shelf>(max_cached_bytes)) {}

BufferPool::~BufferPool() {
  const std::lock_guard lock(shelf_->mutex);
  shelf_->open = false;
  shelf_->clear();
}

std::size_t BufferPool::cached_bytes() const {
  const std::lock_guard lock(shelf_->mutex);
  return shelf_->cached_bytes;
}

Result<PooledBuffer> BufferPool::take(std::size_t bytes) {
  PooledBuffer buffer;
  if (bytes == 0) return buffer;
  const std::size_t capacity = capacity_for(bytes);
  std::byte* data = shelf_->find(capacity);
  for (int attempt = 0; data == nullptr && attempt < 2; ++attempt) {
    if (attempt == 1) shelf_->drop_all();
    void* mapped =
        ::mmap(nullptr, capacity, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED) continue;
    if (capacity >= kHugePageBytes) ::madvise(mapped, capacity, MADV_HUGEPAGE);  // a wish
    data = static_cast<std::byte*>(mapped);
  }
  if (data == nullptr) {
    return Status(StatusCode::kResourceExhausted, "no memory for a tensor of {} bytes: {}", bytes,
                  std::strerror(errno));  // NOLINT: glibc's is thread-safe enough
  }
  buffer.data_ = std::shared_ptr<std::byte>(
      data, [shelf = shelf_, capacity](std::byte* home) { shelf->put_back(home, capacity); });
  buffer.size_ = bytes;
  return buffer;
}

}  // namespace airlock
