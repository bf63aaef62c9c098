#pragma once

#include <cstddef>
#include <utility>
#include <vector>

#include "base/page_buffer.h"
#include "base/status.h"

namespace airlock {

/// Buffers that one session uses again and again, so that an op does not pay for page faults: its
/// operands' loans, or what the CPU needs in between. What lies in a buffer is what the same
/// session left there. One thread; outlives its buffers.
class ScratchPool {
 public:
  /// Pages on loan from a pool; destroying it gives them back.
  class Buffer {
   public:
    Buffer() = default;
    Buffer(Buffer&& other) noexcept
        : pool_(std::exchange(other.pool_, nullptr)), pages_(std::move(other.pages_)) {}
    Buffer& operator=(Buffer&& other) noexcept {
      std::swap(pool_, other.pool_);
      std::swap(pages_, other.pages_);
      return *this;
    }
    ~Buffer() {
      if (pool_ != nullptr) pool_->give_back(std::move(pages_));
    }
    std::byte* data() const { return pages_.data(); }

   private:
    friend class ScratchPool;
    Buffer(ScratchPool* pool, PageBuffer pages) : pool_(pool), pages_(std::move(pages)) {}
    ScratchPool* pool_ = nullptr;
    PageBuffer pages_;
  };

  /// At least `bytes`, page-aligned; contents are whatever the last user left. kResourceExhausted
  /// without memory.
  Result<Buffer> take(std::size_t bytes);
  std::size_t idle_bytes() const { return idle_bytes_; }

 private:
  void give_back(PageBuffer pages);

  std::vector<PageBuffer> idle_;
  std::size_t idle_bytes_ = 0;
};

}  // namespace airlock
