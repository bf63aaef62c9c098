#pragma once

#include <cstddef>
#include <span>
#include <string_view>
#include <utility>

#include "base/page_buffer.h"
#include "gpu_server/cuda/device.h"

/// Internal to gpu_server/cuda.
namespace airlock::cuda {

/// cudaMalloc'ed memory of a fixed size: weights, a workspace. One thread.
class DeviceMemory {
 public:
  DeviceMemory() = default;
  /// kResourceExhausted names `what` and its size.
  static Result<DeviceMemory> allocate(Device& device, std::size_t bytes, std::string_view what);
  std::byte* data() const { return memory_.get(); }

 private:
  static cudaError_t free_bytes(std::byte* data) { return cudaFree(data); }
  Handle<std::byte*, free_bytes> memory_;
};

/// Device memory that only grows, in the order of a stream: nobody waits for it. What lay in it is
/// gone when it grows. One thread; must be empty (release()) before its stream is destroyed.
class GrowingBuffer {
 public:
  explicit GrowingBuffer(Device& device) : device_(device) {}
  GrowingBuffer(const GrowingBuffer&) = delete;
  GrowingBuffer& operator=(const GrowingBuffer&) = delete;

  /// At least `bytes`, for work that is queued on `stream` from now on; the same stream each time,
  /// and nothing under way may use what lies there now. kResourceExhausted leaves it empty.
  Status reserve(std::size_t bytes, cudaStream_t stream);
  Status release(cudaStream_t stream);
  std::byte* data() const { return data_; }
  std::size_t capacity() const { return capacity_; }

 private:
  Device& device_;
  std::byte* data_ = nullptr;
  std::size_t capacity_ = 0;
};

/// Makes host memory known to the device (pinned), so that it is copied where it lies. One thread.
class Registration {
 public:
  Registration() = default;
  /// What fails is no harm: without it copies are slower.
  static Result<Registration> make(Device& device, std::span<std::byte> memory);
  bool covers(const std::byte* data, std::size_t bytes) const {
    return memory_.data() <= data && data + bytes <= memory_.data() + memory_.size();
  }

 private:
  static cudaError_t forget(std::byte* data) { return cudaHostUnregister(data); }
  Handle<std::byte*, forget> handle_;
  std::span<std::byte> memory_;
};

/// Host pages, registered where the device takes them. One thread.
class HostBuffer {
 public:
  HostBuffer() = default;
  /// kResourceExhausted where the system has no memory; without pinning it is as good and slower.
  static Result<HostBuffer> allocate(Device& device, std::size_t bytes);
  std::byte* data() const { return pages_.data(); }
  bool pinned() const { return pinned_; }

 private:
  // Its registration goes before the pages do.
  PageBuffer pages_;
  Registration registration_;
  bool pinned_ = false;
};

}  // namespace airlock::cuda
