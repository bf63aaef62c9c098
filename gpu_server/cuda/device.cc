#include "gpu_server/cuda/device.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdint>

namespace airlock::cuda {

namespace {

// After these, CUDA answers every call of the process with the same error. By number: what older
// toolkits have no name for.
constexpr std::array kLasting = {
    cudaErrorIllegalAddress,
    cudaErrorLaunchFailure,
    cudaErrorLaunchTimeout,
    cudaErrorHardwareStackError,
    cudaErrorIllegalInstruction,
    cudaErrorMisalignedAddress,
    cudaErrorInvalidAddressSpace,
    cudaErrorInvalidPc,
    cudaErrorAssert,
    cudaErrorECCUncorrectable,
    cudaErrorNvlinkUncorrectable,
    cudaErrorContextIsDestroyed,
    cudaErrorDevicesUnavailable,
    cudaErrorUnknown,
    cudaErrorExternalDevice,
    cudaErrorCudartUnloading,
    static_cast<cudaError_t>(226),  // cudaErrorContained
    static_cast<cudaError_t>(721),  // cudaErrorTensorMemoryLeak
    static_cast<cudaError_t>(810),  // cudaErrorMpsClientTerminated
};

// The calling thread's device, as CUDA has it: nobody else in this process asks for one.
thread_local int current_device = -1;

bool is_lasting(cudaError_t error) { return std::ranges::find(kLasting, error) != kLasting.end(); }

std::string version_text(int version) {
  return fmt::format("{}.{}", version / 1000, version % 1000 / 10);
}

// Why a first call fails, for someone who just installed a driver.
Status explain_start(cudaError_t error, std::string_view device) {
  int driver = 0;
  int runtime = 0;
  (void)cudaDriverGetVersion(&driver);
  (void)cudaRuntimeGetVersion(&runtime);
  if (error == cudaErrorInsufficientDriver || (driver != 0 && driver / 1000 < runtime / 1000)) {
    return {StatusCode::kDevice,
            "{}: the driver knows CUDA {}, this build needs {}: install a newer NVIDIA driver",
            device, version_text(driver), version_text(runtime)};
  }
  return {StatusCode::kDevice, "{}: {} ({})", device, cudaGetErrorString(error),
          cudaGetErrorName(error)};
}

}  // namespace

Result<std::shared_ptr<Device>> Device::open(int ordinal) {
  std::shared_ptr<Device> device(new Device(ordinal));
  device->label_ = fmt::format("cuda:{}", ordinal);
  int count = 0;
  cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaSuccess && (ordinal < 0 || ordinal >= count)) {
    return Status(StatusCode::kDevice, "{}: this machine has {} CUDA device{}", device->label_,
                  count, count == 1 ? "" : "s");
  }
  if (error == cudaSuccess) error = cudaSetDevice(ordinal);
  if (error != cudaSuccess) return explain_start(error, device->label_);
  current_device = ordinal;
  RETURN_IF_ERROR(device->describe());
  return device;
}

Status Device::describe() {
  cudaDeviceProp properties{};
  RETURN_IF_ERROR(check(cudaGetDeviceProperties(&properties, ordinal_), "ask for its properties"));
  int driver = 0;
  int runtime = 0;
  RETURN_IF_ERROR(check(cudaDriverGetVersion(&driver), "ask for the driver's version"));
  RETURN_IF_ERROR(check(cudaRuntimeGetVersion(&runtime), "ask for the runtime's version"));
  properties.name[sizeof(properties.name) - 1] = '\0';
  info_.name = properties.name;
  info_.driver = version_text(driver);
  info_.runtime = version_text(runtime);
  info_.memory_bytes = properties.totalGlobalMem;
  label_ += " " + info_.name;
  // https://docs.nvidia.com/cuda/cublas/: cublasSetWorkspace, 32 MiB from Hopper on, else 4 MiB.
  constexpr int kHopper = 9;
  workspace_bytes_ = std::size_t{properties.major >= kHopper ? 32U : 4U} << 20;
  // Freed memory stays in the pool: what an op gives back the next one takes.
  cudaMemPool_t pool = nullptr;
  RETURN_IF_ERROR(check(cudaDeviceGetDefaultMemPool(&pool, ordinal_), "find its memory pool"));
  std::uint64_t keep = ~std::uint64_t{0};
  RETURN_IF_ERROR(check(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &keep),
                        "set up its memory pool"));
  ASSIGN_OR_RETURN(const Blas blas, make_blas(*this));
  int version = 0;
  RETURN_IF_ERROR(check(cublasGetVersion(blas.get(), &version), "ask for cuBLAS's version"));
  info_.cublas = fmt::format("{}.{}.{}", version / 10000, version / 100 % 100, version % 100);
  return {};
}

Status Device::use() {
  RETURN_IF_ERROR(health());
  if (current_device == ordinal_) return {};
  RETURN_IF_ERROR(check(cudaSetDevice(ordinal_), "use the device"));
  current_device = ordinal_;
  return {};
}

Result<std::size_t> Device::free_bytes() {
  std::size_t free = 0;
  std::size_t total = 0;
  RETURN_IF_ERROR(check(cudaMemGetInfo(&free, &total), "ask for free memory"));
  return free;
}

Status Device::check(cudaError_t error, std::string_view what) {
  if (error == cudaSuccess) return {};
  const std::string text = fmt::format("{}: {}: {} ({})", label_, what, cudaGetErrorString(error),
                                       cudaGetErrorName(error));
  if (is_lasting(error)) return lose(text);
  if (error == cudaErrorMemoryAllocation) return {StatusCode::kResourceExhausted, text};
  return {StatusCode::kDevice, text};
}

Status Device::check(cublasStatus_t status, std::string_view what) {
  if (status == CUBLAS_STATUS_SUCCESS) return {};
  const std::string text = fmt::format("{}: {}: {}", label_, what, cublasGetStatusName(status));
  // "The GPU program failed to execute": because the device is lost, or because there was no memory
  // to load a kernel into. Where CUDA does not say so here, it does when the streams are drained.
  if (status == CUBLAS_STATUS_EXECUTION_FAILED && is_lasting(cudaPeekAtLastError()))
    return lose(text);
  if (status == CUBLAS_STATUS_ALLOC_FAILED) return {StatusCode::kResourceExhausted, text};
  return {StatusCode::kDevice, text};
}

Status Device::lose(std::string_view why) {
  const std::lock_guard lock(mutex_);
  if (reason_.empty()) reason_ = why;
  lost_.store(true, std::memory_order_release);
  return {StatusCode::kDevice, reason_};
}

Status Device::health() const {
  if (!lost()) return {};
  const std::lock_guard lock(mutex_);
  return {StatusCode::kDevice, reason_};
}

Result<bool> Device::is_over(cudaError_t answer) {
  if (answer == cudaSuccess) return true;
  if (answer == cudaErrorNotReady) return false;
  return lose(check(answer, "run an op").message());
}

Result<Stream> make_stream(Device& device) {
  cudaStream_t stream = nullptr;
  RETURN_IF_ERROR(
      device.check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "make a stream"));
  return Stream(stream, {&device});
}

Result<Event> make_event(Device& device) {
  cudaEvent_t event = nullptr;
  RETURN_IF_ERROR(
      device.check(cudaEventCreateWithFlags(&event, cudaEventDefault), "make an event"));
  return Event(event, {&device});
}

Result<Blas> make_blas(Device& device) {
  cublasHandle_t handle = nullptr;
  const cublasStatus_t status = cublasCreate(&handle);
  // What it says on a device that works where too little memory is free, as often as ALLOC_FAILED.
  if (status == CUBLAS_STATUS_NOT_INITIALIZED) {
    return Status(StatusCode::kResourceExhausted,
                  "{}: cuBLAS does not start ({}): is there device memory left?", device.label(),
                  cublasGetStatusName(status));
  }
  RETURN_IF_ERROR(device.check(status, "start cuBLAS"));
  return Blas(handle, {&device});
}

}  // namespace airlock::cuda
