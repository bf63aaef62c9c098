/// cudaMemcpyAsync and cudaMemcpy2DAsync.
#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include <memory>
#include <utility>
#include <vector>

#include "tests/cuda_fake/fake_state.h"

namespace airlock::cuda_fake {

namespace {

struct Copy {
  const char* function = "";
  std::uintptr_t to = 0;
  std::size_t to_pitch = 0;
  std::uintptr_t from = 0;
  std::size_t from_pitch = 0;
  std::size_t width = 0;
  std::size_t height = 0;
  cudaMemcpyKind kind = cudaMemcpyDefault;

  Rows from_rows(std::byte* data) const { return {data, width, from_pitch, height}; }
  Rows to_rows(std::byte* data) const { return {data, width, to_pitch, height}; }
  bool to_device() const { return is_device_address(to); }
  bool from_device() const { return is_device_address(from); }
};

std::byte* host(std::uintptr_t address) { return reinterpret_cast<std::byte*>(address); }

cudaError_t check(State& s, const Copy& copy) {
  if (copy.height > 1 && (copy.to_pitch < copy.width || copy.from_pitch < copy.width)) {
    return cudaErrorInvalidPitchValue;
  }
  if (copy.kind < cudaMemcpyHostToHost || copy.kind > cudaMemcpyDefault) {
    return cudaErrorInvalidMemcpyDirection;
  }
  if (copy.to == 0 || copy.from == 0) return cudaErrorInvalidValue;
  if (copy.kind == cudaMemcpyDefault) return cudaSuccess;
  const bool claims_to =
      copy.kind == cudaMemcpyHostToDevice || copy.kind == cudaMemcpyDeviceToDevice;
  const bool claims_from =
      copy.kind == cudaMemcpyDeviceToHost || copy.kind == cudaMemcpyDeviceToDevice;
  if (claims_to != copy.to_device() || claims_from != copy.from_device()) {
    const bool wrong_to = claims_to != copy.to_device();
    const bool claims = wrong_to ? claims_to : claims_from;
    s.misuse(fmt::format("{}: its {} is {} memory, not {} memory as it says", copy.function,
                         wrong_to ? "destination" : "source", claims ? "host" : "device",
                         claims ? "device" : "host"));
    return cudaErrorInvalidValue;
  }
  return cudaSuccess;
}

Access access(std::uintptr_t address, const Rows& rows, bool write) {
  Access made;
  made.address = address;
  made.bytes = rows.extent();
  if (rows.height > 1 && rows.pitch > rows.width) {
    made.pitch = rows.pitch;
    made.width = rows.width;
  }
  made.device = is_device_address(address);
  made.write = write;
  return made;
}

void count(State& s, const Copy& copy) {
  const std::uint64_t bytes = copy.width * copy.height;
  if (copy.to_device() && !copy.from_device()) s.counters.bytes_in += bytes;
  if (copy.from_device() && !copy.to_device()) s.counters.bytes_out += bytes;
}

Work::Run fill_destination(const Copy& copy, std::size_t index) {
  return [copy, index](std::span<const Resolved> at) -> std::string {
    fill(copy.to_rows(at[index].data));
    return "";
  };
}

/// Between registered or device memory: accesses 0 is the source, 1 the destination.
Work direct(State& s, const Copy& copy, std::uint64_t registration) {
  Work work;
  work.function = copy.function;
  work.registration = registration;
  const std::size_t from_bytes = copy.from_rows(nullptr).extent();
  work.accesses = {access(copy.from, copy.from_rows(nullptr), false),
                   access(copy.to, copy.to_rows(nullptr), true)};
  work.spoil = fill_destination(copy, 1);
  if (!copy.to_device()) work.host_result = copy.to_rows(host(copy.to));
  // What queued work will still write there is no change of the source.
  const bool hashed = !copy.from_device() && !s.schedule.unproven_writes(work.accesses[0]) &&
                      is_mapped(host(copy.from), from_bytes);
  const std::uint64_t before = hashed ? hash(copy.from_rows(host(copy.from))) : 0;
  work.run = [copy, hashed, before](std::span<const Resolved> at) -> std::string {
    const Rows from = copy.from_rows(at[0].data);
    const bool changed = hashed && hash(from) != before;
    cuda_fake::copy(copy.to_rows(at[1].data), from);
    return changed ? "the source of a copy changed while it was queued" : "";
  };
  return work;
}

/// The source is taken at the call.
Work from_pageable(const Copy& copy) {
  auto snapshot = std::make_shared<std::vector<std::byte>>(copy.width * copy.height);
  const Rows dense{snapshot->data(), copy.width, copy.width, copy.height};
  cuda_fake::copy(dense, copy.from_rows(host(copy.from)));
  Work work;
  work.function = copy.function;
  work.accesses = {access(copy.to, copy.to_rows(nullptr), true)};
  work.spoil = fill_destination(copy, 0);
  work.run = [copy, snapshot, dense](std::span<const Resolved> at) -> std::string {
    cuda_fake::copy(copy.to_rows(at[0].data), dense);
    return "";
  };
  return work;
}

/// The caller waits for it.
Work to_pageable(const Copy& copy) {
  Work work;
  work.function = copy.function;
  work.accesses = {access(copy.from, copy.from_rows(nullptr), false)};
  work.run = [copy](std::span<const Resolved> at) -> std::string {
    cuda_fake::copy(copy.to_rows(host(copy.to)), copy.from_rows(at[0].data));
    return "";
  };
  return work;
}

cudaError_t queue_pageable(State& s, Lock& lock, Stream& stream, const Copy& copy) {
  if (s.options.report_pageable) {
    s.misuse(fmt::format("{} of host memory that is not registered", copy.function));
  }
  ++s.counters.pageable_copies;
  count(s, copy);
  if (copy.to_device()) {
    s.schedule.queue(stream, from_pageable(copy), lock);
    return cudaSuccess;
  }
  if (s.options.hang) {
    s.misuse(
        fmt::format("{} to host memory that is not registered would wait for ever", copy.function));
    return cudaErrorUnknown;
  }
  const StreamId id = stream.id;
  const std::uint64_t position = s.schedule.queue(stream, to_pageable(copy), lock);
  if (!s.schedule.run_to(id, position, lock)) return cudaErrorUnknown;
  s.schedule.prove(stream.clock);
  return cudaSuccess;
}

cudaError_t queue_copy(State& s, Lock& lock, const Copy& copy, cudaStream_t handle) {
  Stream* stream = s.schedule.find_stream(handle, copy.function);
  if (stream == nullptr) return cudaErrorInvalidResourceHandle;
  if (copy.width == 0 || copy.height == 0) return cudaSuccess;
  if (const cudaError_t wrong = check(s, copy); wrong != cudaSuccess) return wrong;

  // What is pinned for another device alone is not for this one.
  const auto kind_of = [&s, stream](bool device, std::uintptr_t address, std::size_t bytes,
                                    std::uint64_t& id) {
    if (device) return Memory::Cover::kWhole;
    const Registration* whose = nullptr;
    const Memory::Cover cover = s.memory.cover(address, bytes, whose);
    if (whose == nullptr) return cover;
    if (whose->device.value_or(stream->device) != stream->device) return Memory::Cover::kNone;
    id = whose->id;
    return cover;
  };
  std::uint64_t from_id = 0;
  std::uint64_t to_id = 0;
  const Memory::Cover from =
      kind_of(copy.from_device(), copy.from, copy.from_rows(nullptr).extent(), from_id);
  const Memory::Cover to =
      kind_of(copy.to_device(), copy.to, copy.to_rows(nullptr).extent(), to_id);
  if (from == Memory::Cover::kPart || to == Memory::Cover::kPart) {
    s.misuse(fmt::format("{} of host memory of which only a part is registered", copy.function));
    return cudaErrorInvalidValue;
  }
  if (!copy.from_device() && !copy.to_device()) {
    s.misuse(fmt::format("{} between host memory and host memory", copy.function));
    return cudaErrorInvalidValue;
  }
  if (from == Memory::Cover::kNone || to == Memory::Cover::kNone) {
    return queue_pageable(s, lock, *stream, copy);
  }
  const bool device_only = copy.from_device() && copy.to_device();
  ++(device_only ? s.counters.device_copies : s.counters.pinned_copies);
  count(s, copy);
  s.schedule.queue(*stream, direct(s, copy, from_id != 0 ? from_id : to_id), lock);
  return cudaSuccess;
}

}  // namespace

}  // namespace airlock::cuda_fake

using namespace airlock::cuda_fake;  // NOLINT: the functions below are C's

extern "C" {

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t count, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  return call("cudaMemcpyAsync", [&](State& s, Lock& lock) {
    const Copy copy{"cudaMemcpyAsync",
                    reinterpret_cast<std::uintptr_t>(to),
                    count,
                    reinterpret_cast<std::uintptr_t>(from),
                    count,
                    count,
                    1,
                    kind};
    return queue_copy(s, lock, copy, stream);
  });
}

cudaError_t cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch,
                              size_t width, size_t height, cudaMemcpyKind kind,
                              cudaStream_t stream) {
  return call("cudaMemcpy2DAsync", [&](State& s, Lock& lock) {
    if (width > to_pitch || width > from_pitch) return cudaErrorInvalidPitchValue;
    const Copy copy{"cudaMemcpy2DAsync",
                    reinterpret_cast<std::uintptr_t>(to),
                    to_pitch,
                    reinterpret_cast<std::uintptr_t>(from),
                    from_pitch,
                    width,
                    height,
                    kind};
    return queue_copy(s, lock, copy, stream);
  });
}

}  // extern "C"
