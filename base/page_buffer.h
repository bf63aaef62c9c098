#pragma once

#include <cstddef>
#include <utility>

#include "base/status.h"

namespace airlock {

/// Owns anonymous pages (mmap), zero at first, with huge pages asked for where it is large.
class PageBuffer {
 public:
  PageBuffer() = default;
  /// kResourceExhausted where the system refuses.
  static Result<PageBuffer> allocate(std::size_t bytes);
  PageBuffer(PageBuffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  PageBuffer& operator=(PageBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~PageBuffer();

  std::byte* data() const { return data_; }
  std::size_t bytes() const { return bytes_; }

 private:
  PageBuffer(std::byte* data, std::size_t bytes) : data_(data), bytes_(bytes) {}
  std::byte* data_ = nullptr;
  std::size_t bytes_ = 0;
};

}  // namespace airlock
