#include "gpu_server/cuda/memory.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>

namespace airlock::cuda {

namespace {

double mib(std::size_t bytes) { return static_cast<double>(bytes) / 1048576.0; }

}  // namespace

Result<DeviceMemory> DeviceMemory::allocate(Device& device, std::size_t bytes,
                                            std::string_view what) {
  void* data = nullptr;
  RETURN_IF_ERROR(device.check(cudaMalloc(&data, bytes),
                               fmt::format("allocate {:.1f} MiB for {}", mib(bytes), what)));
  DeviceMemory made;
  made.memory_ = Handle<std::byte*, free_bytes>(device, static_cast<std::byte*>(data));
  return made;
}

Status GrowingBuffer::reserve(std::size_t bytes, cudaStream_t stream) {
  if (bytes <= capacity_) return {};
  RETURN_IF_ERROR(release(stream));
  // By eighths of a power of two: a slightly longer prompt finds room.
  const std::size_t step = std::max(std::size_t{1} << 16, std::bit_floor(bytes) / 8);
  const std::size_t wanted = (bytes + step - 1) / step * step;
  void* data = nullptr;
  RETURN_IF_ERROR(device_.check(cudaMallocAsync(&data, wanted, stream),
                                fmt::format("allocate {:.1f} MiB for an op", mib(wanted))));
  data_ = static_cast<std::byte*>(data);
  capacity_ = wanted;
  return {};
}

Status GrowingBuffer::release(cudaStream_t stream) {
  std::byte* data = std::exchange(data_, nullptr);
  capacity_ = 0;
  if (data == nullptr || device_.lost()) return {};
  return device_.check(cudaFreeAsync(data, stream), "free an op's memory");
}

Result<Registration> Registration::make(Device& device, std::span<std::byte> memory) {
  RETURN_IF_ERROR(
      device.check(cudaHostRegister(memory.data(), memory.size(), cudaHostRegisterDefault),
                   fmt::format("pin {:.1f} MiB of host memory", mib(memory.size()))));
  Registration made;
  made.handle_ = Handle<std::byte*, forget>(device, memory.data());
  made.memory_ = memory;
  return made;
}

Result<HostBuffer> HostBuffer::allocate(Device& device, std::size_t bytes) {
  HostBuffer made;
  ASSIGN_OR_RETURN(made.pages_, PageBuffer::allocate(bytes));
  auto registration = Registration::make(device, {made.pages_.data(), made.pages_.bytes()});
  if (registration.ok()) {
    made.registration_ = std::move(registration).value();
    made.pinned_ = true;
  } else if (device.lost()) {
    return registration.status();
  }
  return made;
}

}  // namespace airlock::cuda
