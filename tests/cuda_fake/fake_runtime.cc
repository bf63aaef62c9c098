/// The CUDA runtime's functions for devices, errors, streams and events.
#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include <chrono>
#include <cstring>
#include <memory>
#include <utility>

#include "tests/cuda_fake/fake_state.h"

namespace airlock::cuda_fake {

namespace {

struct ErrorText {
  cudaError_t error;
  const char* name;
  const char* text;
};

constexpr ErrorText kErrors[] = {
    {cudaSuccess, "cudaSuccess", "no error"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
    {cudaErrorInitializationError, "cudaErrorInitializationError", "initialization error"},
    {cudaErrorCudartUnloading, "cudaErrorCudartUnloading", "driver shutting down"},
    {cudaErrorInvalidConfiguration, "cudaErrorInvalidConfiguration",
     "invalid configuration argument"},
    {cudaErrorInvalidPitchValue, "cudaErrorInvalidPitchValue", "invalid pitch argument"},
    {cudaErrorInvalidMemcpyDirection, "cudaErrorInvalidMemcpyDirection",
     "invalid copy direction for memcpy"},
    {cudaErrorInsufficientDriver, "cudaErrorInsufficientDriver",
     "CUDA driver version is insufficient for CUDA runtime version"},
    {cudaErrorDevicesUnavailable, "cudaErrorDevicesUnavailable",
     "CUDA-capable device(s) is/are busy or unavailable"},
    {cudaErrorNoDevice, "cudaErrorNoDevice", "no CUDA-capable device is detected"},
    {cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {cudaErrorNoKernelImageForDevice, "cudaErrorNoKernelImageForDevice",
     "no kernel image is available for execution on the device"},
    {cudaErrorECCUncorrectable, "cudaErrorECCUncorrectable", "uncorrectable ECC error encountered"},
    {cudaErrorOperatingSystem, "cudaErrorOperatingSystem",
     "OS call failed or operation not "
     "supported on this OS"},
    {cudaErrorInvalidResourceHandle, "cudaErrorInvalidResourceHandle", "invalid resource handle"},
    {cudaErrorNotReady, "cudaErrorNotReady", "device not ready"},
    {cudaErrorIllegalAddress, "cudaErrorIllegalAddress",
     "an illegal memory access was encountered"},
    {cudaErrorLaunchOutOfResources, "cudaErrorLaunchOutOfResources",
     "too many resources requested for launch"},
    {cudaErrorLaunchTimeout, "cudaErrorLaunchTimeout", "the launch timed out and was terminated"},
    {cudaErrorHostMemoryAlreadyRegistered, "cudaErrorHostMemoryAlreadyRegistered",
     "part or all of the requested memory range is already mapped"},
    {cudaErrorHostMemoryNotRegistered, "cudaErrorHostMemoryNotRegistered",
     "pointer does not correspond to a registered memory region"},
    {cudaErrorMisalignedAddress, "cudaErrorMisalignedAddress", "misaligned address"},
    {cudaErrorLaunchFailure, "cudaErrorLaunchFailure", "unspecified launch failure"},
    {cudaErrorNotPermitted, "cudaErrorNotPermitted", "operation not permitted"},
    {cudaErrorNotSupported, "cudaErrorNotSupported", "operation not supported"},
    {cudaErrorSystemDriverMismatch, "cudaErrorSystemDriverMismatch",
     "system has unsupported display driver / cuda driver combination"},
    {cudaErrorUnknown, "cudaErrorUnknown", "unknown error"},
};

/// The event and what it was recorded at. Null event: not there. Null record: never recorded.
cudaError_t query_record(State& s, Event& event, Lock& lock) {
  const std::shared_ptr<Record> record = event.record;
  if (!record->done && s.options.mode != Mode::kThreads) {
    if (!std::exchange(event.asked, true)) return cudaErrorNotReady;
    if (!s.schedule.run_to(record->stream, record->position, lock)) return cudaErrorNotReady;
  }
  if (!record->done) return cudaErrorNotReady;
  s.schedule.prove(record->clock);
  return cudaSuccess;
}

cudaError_t query_stream(State& s, Stream& stream, Lock& lock) {
  if (stream.done != stream.queued && s.options.mode != Mode::kThreads) {
    if (!std::exchange(stream.asked, true)) return cudaErrorNotReady;
    if (!s.schedule.run_to(stream.id, stream.queued, lock)) return cudaErrorNotReady;
  }
  if (stream.done != stream.queued) return cudaErrorNotReady;
  s.schedule.prove(stream.clock);
  return cudaSuccess;
}

}  // namespace

}  // namespace airlock::cuda_fake

using namespace airlock::cuda_fake;  // NOLINT: the functions below are C's

extern "C" {

cudaError_t cudaGetDeviceCount(int* count) {
  return call("cudaGetDeviceCount", [&](State& s, Lock&) {
    *count = s.options.devices;
    return cudaSuccess;
  });
}

cudaError_t cudaSetDevice(int device) {
  return call("cudaSetDevice", CallKind::kSwitch, [&](State& s, Lock&) {
    if (device < 0 || device >= s.options.devices) return cudaErrorInvalidDevice;
    if (s.lost(device) != cudaSuccess) return s.tell_loss(device, "cudaSetDevice");
    s.current_device() = device;
    return cudaSuccess;
  });
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* prop, int device) {
  return call("cudaGetDeviceProperties", [&](State& s, Lock&) {
    if (prop == nullptr) return cudaErrorInvalidValue;
    if (device < 0 || device >= s.options.devices) return cudaErrorInvalidDevice;
    *prop = {};
    std::strncpy(prop->name, "Airlock fake GPU", sizeof prop->name - 1);
    prop->totalGlobalMem = s.options.memory_bytes;
    prop->major = 8;
    prop->minor = 0;
    prop->warpSize = 32;
    prop->maxThreadsPerBlock = 1024;
    prop->multiProcessorCount = 4;
    prop->asyncEngineCount = 2;
    prop->unifiedAddressing = 1;
    prop->canMapHostMemory = 1;
    prop->canUseHostPointerForRegisteredMem = 1;
    prop->hostRegisterSupported = 1;
    prop->memoryPoolsSupported = 1;
    prop->concurrentKernels = 1;
    return cudaSuccess;
  });
}

cudaError_t cudaDriverGetVersion(int* version) {
  return call("cudaDriverGetVersion", CallKind::kVersion, [&](State& s, Lock&) {
    if (version == nullptr) return cudaErrorInvalidValue;
    *version = s.options.driver_version == 0 ? CUDART_VERSION : s.options.driver_version;
    return cudaSuccess;
  });
}

cudaError_t cudaRuntimeGetVersion(int* version) {
  return call("cudaRuntimeGetVersion", CallKind::kVersion, [&](State&, Lock&) {
    if (version == nullptr) return cudaErrorInvalidValue;
    *version = CUDART_VERSION;
    return cudaSuccess;
  });
}

cudaError_t cudaGetLastError() {
  return call("cudaGetLastError", CallKind::kErrorQuery,
              [](State& s, Lock&) { return s.take_last_error(); });
}

cudaError_t cudaPeekAtLastError() {
  return call("cudaPeekAtLastError", CallKind::kErrorQuery,
              [](State& s, Lock&) { return s.last_error(); });
}

const char* cudaGetErrorName(cudaError_t error) {
  for (const ErrorText& known : kErrors) {
    if (known.error == error) return known.name;
  }
  return "unrecognized error code";
}

const char* cudaGetErrorString(cudaError_t error) {
  for (const ErrorText& known : kErrors) {
    if (known.error == error) return known.text;
  }
  return "unrecognized error code";
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned int flags) {
  return call("cudaStreamCreateWithFlags", [&](State& s, Lock&) {
    if (stream == nullptr || flags > cudaStreamNonBlocking) return cudaErrorInvalidValue;
    *stream = Schedule::handle(s.schedule.create_stream(s.current_device()));
    return cudaSuccess;
  });
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  return call("cudaStreamDestroy", CallKind::kRelease, [&](State& s, Lock& lock) {
    Stream* found = s.schedule.find_stream(stream, "cudaStreamDestroy");
    if (found == nullptr) return cudaErrorInvalidResourceHandle;
    s.schedule.destroy_stream(found->id, lock);
    return cudaSuccess;
  });
}

cudaError_t cudaStreamQuery(cudaStream_t stream) {
  return call("cudaStreamQuery", [&](State& s, Lock& lock) {
    Stream* found = s.schedule.find_stream(stream, "cudaStreamQuery");
    if (found == nullptr) return cudaErrorInvalidResourceHandle;
    s.schedule.touch(*found, "cudaStreamQuery");
    return query_stream(s, *found, lock);
  });
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned int flags) {
  return call("cudaStreamWaitEvent", [&](State& s, Lock& lock) {
    Stream* found = s.schedule.find_stream(stream, "cudaStreamWaitEvent");
    Event* awaited = s.schedule.find_event(event, "cudaStreamWaitEvent");
    if (found == nullptr || awaited == nullptr) return cudaErrorInvalidResourceHandle;
    if (flags > cudaEventWaitExternal) return cudaErrorInvalidValue;
    if (awaited->record == nullptr) {
      s.misuse("cudaStreamWaitEvent for an event that was not recorded");
      return cudaSuccess;
    }
    Work work;
    work.kind = Work::Kind::kWait;
    work.function = "cudaStreamWaitEvent";
    work.record = awaited->record;
    s.schedule.queue(*found, std::move(work), lock);
    return cudaSuccess;
  });
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned int flags) {
  return call("cudaEventCreateWithFlags", [&](State& s, Lock&) {
    constexpr unsigned int kKnown = cudaEventBlockingSync | cudaEventDisableTiming;
    if (event == nullptr || (flags & ~kKnown) != 0) return cudaErrorInvalidValue;
    const bool timed = (flags & cudaEventDisableTiming) == 0;
    *event = Schedule::handle(s.schedule.create_event(s.current_device(), timed));
    return cudaSuccess;
  });
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  return call("cudaEventDestroy", CallKind::kRelease, [&](State& s, Lock&) {
    Event* found = s.schedule.find_event(event, "cudaEventDestroy");
    if (found == nullptr) return cudaErrorInvalidResourceHandle;
    s.schedule.destroy_event(found->id);
    return cudaSuccess;
  });
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  return call("cudaEventRecord", [&](State& s, Lock& lock) {
    Stream* found = s.schedule.find_stream(stream, "cudaEventRecord");
    Event* recorded = s.schedule.find_event(event, "cudaEventRecord");
    if (found == nullptr || recorded == nullptr) return cudaErrorInvalidResourceHandle;
    if (recorded->device != found->device) {
      s.misuse("cudaEventRecord of an event of another device than the stream's");
      return cudaErrorInvalidResourceHandle;
    }
    recorded->record = std::make_shared<Record>();
    recorded->asked = false;
    Work work;
    work.kind = Work::Kind::kRecord;
    work.function = "cudaEventRecord";
    work.record = recorded->record;
    s.schedule.queue(*found, std::move(work), lock);
    return cudaSuccess;
  });
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
  return call("cudaEventQuery", [&](State& s, Lock& lock) {
    Event* found = s.schedule.find_event(event, "cudaEventQuery");
    if (found == nullptr) return cudaErrorInvalidResourceHandle;
    if (found->record == nullptr) {
      s.misuse("cudaEventQuery of an event that was not recorded");
      return cudaSuccess;
    }
    return query_record(s, *found, lock);
  });
}

cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t start, cudaEvent_t end) {
  return call("cudaEventElapsedTime", [&](State& s, Lock&) {
    const Event* from = s.schedule.find_event(start, "cudaEventElapsedTime");
    const Event* to = s.schedule.find_event(end, "cudaEventElapsedTime");
    if (from == nullptr || to == nullptr) return cudaErrorInvalidResourceHandle;
    if (ms == nullptr) return cudaErrorInvalidValue;
    if (!from->timed || !to->timed) {
      s.misuse("cudaEventElapsedTime of an event made with cudaEventDisableTiming");
      return cudaErrorInvalidResourceHandle;
    }
    if (from->record == nullptr || to->record == nullptr) {
      s.misuse("cudaEventElapsedTime of an event that was not recorded");
      return cudaErrorInvalidResourceHandle;
    }
    if (!from->record->done || !to->record->done) return cudaErrorNotReady;
    *ms = std::chrono::duration<float, std::milli>(to->record->time - from->record->time).count();
    return cudaSuccess;
  });
}

}  // extern "C"
