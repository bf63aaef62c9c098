/// The CUDA runtime's functions for device memory and registered host memory.
#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include <utility>

#include "tests/cuda_fake/fake_state.h"

namespace airlock::cuda_fake {

namespace {

constexpr std::uintptr_t kPoolTag = 0x0dec'f000'0000'0000;

std::uintptr_t address_of(const void* pointer) { return reinterpret_cast<std::uintptr_t>(pointer); }

/// By its first byte, for a free.
Allocation* find_to_free(State& s, void* pointer, const char* function) {
  Allocation* found = s.memory.find(address_of(pointer));
  if (found != nullptr && !found->freed_in) return found;
  s.misuse(fmt::format("{} of {:#x}: {}", function, address_of(pointer),
                       found != nullptr ? "its free is already queued"
                                        : s.memory.explain(address_of(pointer)) +
                                              ", or not where an allocation begins"));
  return nullptr;
}

bool is_pool(const State& s, cudaMemPool_t pool) {
  const std::uintptr_t device = address_of(pool) - kPoolTag;
  return device < static_cast<std::uintptr_t>(s.options.devices);
}

cudaError_t allocate(State& s, void** pointer, Allocation wanted, std::size_t credit) {
  const std::size_t used = s.memory.used(wanted.device) - credit;
  if (used > s.options.memory_bytes || wanted.bytes > s.options.memory_bytes - used) {
    return cudaErrorMemoryAllocation;
  }
  const auto base = s.memory.allocate(std::move(wanted));
  if (!base) return cudaErrorMemoryAllocation;
  *pointer = reinterpret_cast<void*>(*base);
  return cudaSuccess;
}

}  // namespace

}  // namespace airlock::cuda_fake

using namespace airlock::cuda_fake;  // NOLINT: the functions below are C's

extern "C" {

cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  return call("cudaMemGetInfo", [&](State& s, Lock&) {
    if (free == nullptr || total == nullptr) return cudaErrorInvalidValue;
    const std::size_t used = s.memory.used(s.current_device());
    *total = s.options.memory_bytes;
    *free = used < *total ? *total - used : 0;
    return cudaSuccess;
  });
}

cudaError_t cudaMalloc(void** pointer, size_t size) {
  return call("cudaMalloc", [&](State& s, Lock&) {
    if (pointer == nullptr) return cudaErrorInvalidValue;
    *pointer = nullptr;
    if (size == 0) return cudaSuccess;
    Allocation wanted;
    wanted.bytes = size;
    wanted.device = s.current_device();
    return allocate(s, pointer, std::move(wanted), 0);
  });
}

cudaError_t cudaFree(void* pointer) {
  return call("cudaFree", CallKind::kRelease, [&](State& s, Lock&) {
    if (pointer == nullptr) return cudaSuccess;
    const Allocation* found = find_to_free(s, pointer, "cudaFree");
    if (found == nullptr) return cudaErrorInvalidValue;
    Access all;
    all.address = address_of(pointer);
    all.bytes = found->bytes;
    if (const Work* user = s.schedule.in_use(all); user != nullptr) {
      s.misuse(fmt::format("cudaFree of {} bytes at {:#x} that {} may still use", all.bytes,
                           all.address, user->function));
    }
    s.memory.release(all.address);
    return cudaSuccess;
  });
}

cudaError_t cudaMallocAsync(void** pointer, size_t size, cudaStream_t stream) {
  return call("cudaMallocAsync", [&](State& s, Lock& lock) {
    Stream* found = s.schedule.find_stream(stream, "cudaMallocAsync");
    if (found == nullptr) return cudaErrorInvalidResourceHandle;
    if (pointer == nullptr || size == 0) return cudaErrorInvalidValue;
    Allocation wanted;
    wanted.bytes = size;
    wanted.device = found->device;
    wanted.pooled = true;
    wanted.ready = false;
    // What the stream itself has freed before, it may have again.
    const std::size_t credit = s.memory.freed_in(found->device, found->id);
    const cudaError_t result = allocate(s, pointer, std::move(wanted), credit);
    if (result != cudaSuccess) return result;
    Work work;
    work.kind = Work::Kind::kAllocate;
    work.function = "cudaMallocAsync";
    Access all;
    all.address = address_of(*pointer);
    all.bytes = size;
    all.write = true;
    work.accesses = {all};
    s.schedule.queue(*found, std::move(work), lock);
    return cudaSuccess;
  });
}

cudaError_t cudaFreeAsync(void* pointer, cudaStream_t stream) {
  return call("cudaFreeAsync", CallKind::kRelease, [&](State& s, Lock& lock) {
    Stream* found = s.schedule.find_stream(stream, "cudaFreeAsync");
    if (found == nullptr) return cudaErrorInvalidResourceHandle;
    if (pointer == nullptr) return cudaSuccess;
    Allocation* freed = find_to_free(s, pointer, "cudaFreeAsync");
    if (freed == nullptr) return cudaErrorInvalidValue;
    if (!freed->pooled) {
      s.misuse("cudaFreeAsync of memory that cudaMalloc gave");
      return cudaErrorInvalidValue;
    }
    freed->freed_in = found->id;
    Work work;
    work.kind = Work::Kind::kFree;
    work.function = "cudaFreeAsync";
    Access all;
    all.address = address_of(pointer);
    all.bytes = freed->bytes;
    all.write = true;
    work.accesses = {all};
    s.schedule.queue(*found, std::move(work), lock);
    return cudaSuccess;
  });
}

cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* pool, int device) {
  return call("cudaDeviceGetDefaultMemPool", [&](State& s, Lock&) {
    if (pool == nullptr) return cudaErrorInvalidValue;
    if (device < 0 || device >= s.options.devices) return cudaErrorInvalidDevice;
    *pool = reinterpret_cast<cudaMemPool_t>(kPoolTag + static_cast<std::uintptr_t>(device));
    return cudaSuccess;
  });
}

cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t pool, cudaMemPoolAttr attribute, void* value) {
  return call("cudaMemPoolSetAttribute", [&](State& s, Lock&) {
    if (value == nullptr || !is_pool(s, pool)) return cudaErrorInvalidValue;
    switch (attribute) {
      case cudaMemPoolReuseFollowEventDependencies:
      case cudaMemPoolReuseAllowOpportunistic:
      case cudaMemPoolReuseAllowInternalDependencies: {
        const int flag = *static_cast<const int*>(value);
        return flag == 0 || flag == 1 ? cudaSuccess : cudaErrorInvalidValue;
      }
      case cudaMemPoolAttrReleaseThreshold:
        return cudaSuccess;
      case cudaMemPoolAttrReservedMemHigh:
      case cudaMemPoolAttrUsedMemHigh:
        return *static_cast<const std::uint64_t*>(value) == 0 ? cudaSuccess : cudaErrorInvalidValue;
      default:
        return cudaErrorInvalidValue;
    }
  });
}

cudaError_t cudaMemPoolTrimTo(cudaMemPool_t pool, size_t /*min_bytes_to_keep*/) {
  return call("cudaMemPoolTrimTo", [&](State& s, Lock&) {
    return is_pool(s, pool) ? cudaSuccess : cudaErrorInvalidValue;
  });
}

cudaError_t cudaHostRegister(void* pointer, size_t size, unsigned int flags) {
  return call("cudaHostRegister", [&](State& s, Lock&) {
    constexpr unsigned int kKnown = cudaHostRegisterPortable | cudaHostRegisterMapped |
                                    cudaHostRegisterIoMemory | cudaHostRegisterReadOnly;
    const std::uintptr_t base = address_of(pointer);
    if (base == 0 || size == 0 || (flags & ~kKnown) != 0) return cudaErrorInvalidValue;
    if (is_device_address(base)) {
      s.misuse("cudaHostRegister of a device address");
      return cudaErrorInvalidValue;
    }
    if (!is_mapped(static_cast<const std::byte*>(pointer), size)) {
      s.misuse("cudaHostRegister of memory that the process does not have");
      return cudaErrorInvalidValue;
    }
    if (s.options.register_fails) return cudaErrorMemoryAllocation;
    const bool portable = (flags & cudaHostRegisterPortable) != 0;
    if (!s.memory.register_host(base, size,
                                portable ? std::nullopt : std::optional(s.current_device()))) {
      s.misuse("cudaHostRegister of memory that is already registered, or part of it");
      return cudaErrorHostMemoryAlreadyRegistered;
    }
    return cudaSuccess;
  });
}

cudaError_t cudaHostUnregister(void* pointer) {
  return call("cudaHostUnregister", CallKind::kRelease, [&](State& s, Lock&) {
    const std::uintptr_t base = address_of(pointer);
    const Registration* found = s.memory.registration(base);
    if (found == nullptr) {
      s.misuse("cudaHostUnregister of memory that is not registered, or not from its start");
      return cudaErrorHostMemoryNotRegistered;
    }
    Access all;
    all.address = base;
    all.bytes = found->bytes;
    all.device = false;
    if (const Work* user = s.schedule.in_use(all); user != nullptr) {
      s.misuse(fmt::format("cudaHostUnregister while {} may still use the memory", user->function));
    }
    s.memory.unregister_host(base);
    return cudaSuccess;
  });
}

}  // extern "C"
