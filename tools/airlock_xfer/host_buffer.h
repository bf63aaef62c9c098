#pragma once

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <span>

#include "base/status.h"

namespace airlock::xfer {

/// Page-aligned private memory whose pages are all there already.
class HostBuffer {
 public:
  HostBuffer() = default;
  /// kResourceExhausted where the system has no memory.
  static Result<HostBuffer> make(std::size_t bytes) {
    constexpr std::size_t kPageBytes = 4096;
    const std::size_t rounded = (bytes + kPageBytes - 1) / kPageBytes * kPageBytes;
    HostBuffer buffer;
    buffer.data_.reset(static_cast<std::byte*>(std::aligned_alloc(kPageBytes, rounded)));
    if (buffer.data_ == nullptr) {
      return Status(StatusCode::kResourceExhausted, "no memory for a buffer of {} bytes", bytes);
    }
    std::memset(buffer.data_.get(), 0, rounded);
    buffer.size_ = bytes;
    return buffer;
  }
  std::span<std::byte> bytes() const { return {data_.get(), size_}; }

 private:
  struct Free {
    void operator()(std::byte* data) const { std::free(data); }
  };
  std::unique_ptr<std::byte, Free> data_;
  std::size_t size_ = 0;
};

}  // namespace airlock::xfer
