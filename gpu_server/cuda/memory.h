#pragma once

#include <cstddef>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

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

enum class Pin { kTry, kNever };

/// Host pages, registered where the device takes them. One thread.
class HostBuffer {
 public:
  HostBuffer() = default;
  /// kResourceExhausted where the system has no memory; without pinning it is as good and slower.
  static Result<HostBuffer> allocate(Device& device, std::size_t bytes, Pin pin = Pin::kTry);
  std::byte* data() const { return pages_.data(); }
  std::size_t bytes() const { return pages_.bytes(); }
  bool pinned() const { return pinned_; }
  bool covers(const std::byte* data, std::size_t bytes) const {
    return pinned_ && registration_.covers(data, bytes);
  }

 private:
  PageBuffer pages_;
  Registration registration_;  // goes before its pages
  bool pinned_ = false;
};

/// Host memory for ops whose caller gives none, kept for the next op. Up to a bound of it is
/// pinned. One thread.
class HostPool {
 public:
  static constexpr std::size_t kMaxPinnedBytes = std::size_t{512} << 20;
  static constexpr std::size_t kMaxIdle = 16;  // buffers, and
  static constexpr std::size_t kMaxIdleBytes = std::size_t{512} << 20;

  explicit HostPool(Device& device) : device_(device) {}
  /// At least `bytes`; contents are whatever the last op left. kResourceExhausted.
  Result<HostBuffer> take(std::size_t bytes);
  void give_back(HostBuffer buffer);

 private:
  Device& device_;
  std::vector<HostBuffer> idle_;  // by size
  std::size_t idle_bytes_ = 0;
  std::size_t pinned_bytes_ = 0;  // idle or not
};

}  // namespace airlock::cuda
