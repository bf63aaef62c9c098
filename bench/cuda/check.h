#pragma once

#include <cublas_v2.h>
#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include <chrono>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "base/deadline.h"
#include "base/status.h"

/// What every CUDA call of the benchmark goes through: a failed call ends the process with exit
/// code 5, since no figure after it would mean anything. Internal to bench/cuda.
namespace airlock::bench {

[[noreturn]] inline void fail(std::string_view what, std::string_view why) {
  fmt::print(stderr, "cuda_bench: {}: {}\n", what, why);
  std::exit(exit_code(StatusCode::kDevice));
}

inline void must(cudaError_t error, std::string_view what) {
  if (error != cudaSuccess) fail(what, cudaGetErrorString(error));
}

inline void must(cublasStatus_t status, std::string_view what) {
  if (status != CUBLAS_STATUS_SUCCESS) fail(what, cublasGetStatusString(status));
}

inline void must(const Status& status, std::string_view what) {
  if (!status.ok()) {
    fmt::print(stderr, "cuda_bench: {}: {}\n", what, status.to_string());
    std::exit(exit_code(status.code()));
  }
}

/// Device memory. Owns it.
class DeviceBuffer {
 public:
  explicit DeviceBuffer(std::size_t size) { must(cudaMalloc(&data_, size), "cudaMalloc"); }
  ~DeviceBuffer() { cudaFree(data_); }
  DeviceBuffer(const DeviceBuffer&) = delete;
  DeviceBuffer& operator=(const DeviceBuffer&) = delete;
  std::byte* data() const { return static_cast<std::byte*>(data_); }

 private:
  void* data_ = nullptr;
};

class Event {
 public:
  Event() { must(cudaEventCreateWithFlags(&event_, cudaEventDefault), "cudaEventCreateWithFlags"); }
  ~Event() { cudaEventDestroy(event_); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  void record(cudaStream_t stream) { must(cudaEventRecord(event_, stream), "cudaEventRecord"); }
  /// After both were waited for.
  double ns_since(const Event& start) const {
    float ms = 0;
    must(cudaEventElapsedTime(&ms, start.event_, event_), "cudaEventElapsedTime");
    return static_cast<double>(ms) * 1e6;
  }

 private:
  cudaEvent_t event_ = nullptr;
};

class Stream {
 public:
  Stream() {
    must(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
  }
  ~Stream() { cudaStreamDestroy(stream_); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  cudaStream_t get() const { return stream_; }
  /// Until all that was queued is done. Asks over and over, as the module does.
  void wait() const {
    const Deadline deadline = Deadline::after(std::chrono::minutes(2));
    cudaError_t state = cudaErrorNotReady;
    while (state == cudaErrorNotReady && !deadline.expired()) state = cudaStreamQuery(stream_);
    must(state, "cudaStreamQuery");
  }

 private:
  cudaStream_t stream_ = nullptr;
};

}  // namespace airlock::bench
