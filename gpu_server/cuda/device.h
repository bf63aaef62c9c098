#pragma once

#include <cublas_v2.h>
#include <cuda_runtime_api.h>

#include <atomic>
#include <cstddef>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <type_traits>

#include "base/deadline.h"
#include "base/patience.h"
#include "base/status.h"
#include "gpu_server/cuda_module_abi.h"

/// Internal to gpu_server/cuda.
namespace airlock::cuda {

/// Looks at an event before naps come between: an op of a few microseconds is answered at once.
inline constexpr int kSpins = 2000;

/// One GPU, and whether it still works. An error that CUDA will not take back (an illegal address,
/// a device that fell off the bus) makes it lost: from then on nothing calls CUDA any more, and
/// memory and handles stay where they are. Thread-safe; outlives all that was made on it.
class Device : public std::enable_shared_from_this<Device> {
 public:
  /// kDevice: no such device, a driver older than the runtime, no permission.
  static Result<std::shared_ptr<Device>> open(int ordinal);

  const CudaDeviceInfo& info() const { return info_; }
  /// "cuda:0 NVIDIA H100 80GB HBM3"
  const std::string& label() const { return label_; }
  /// By architecture: what cuBLAS recommends.
  std::size_t workspace_bytes() const { return workspace_bytes_; }
  /// Makes it the calling thread's device, before anything else and after another one was; free
  /// where it is already. kDevice: it is lost.
  Status use();
  Result<std::size_t> free_bytes();

  /// What came of a call; `what` says in a few words what was tried. Out of memory is
  /// kResourceExhausted, all else kDevice.
  Status check(cudaError_t error, std::string_view what);
  Status check(cublasStatus_t status, std::string_view what);
  /// The device is lost, for this reason; the first one stays.
  Status lose(std::string_view why);
  bool lost() const { return lost_.load(std::memory_order_acquire); }
  /// Ok, or kDevice with why it was lost.
  Status health() const;

  /// What cudaEventQuery() or cudaStreamQuery() said: whether it is over. An error here is what
  /// became of queued work, so the device is lost.
  Result<bool> is_over(cudaError_t answer);
  /// Until `query` (one of those two) says that `handle` is over. It looks again and again, so that
  /// no wait is without an end and none holds more than it waits for. kDevice, and the device is
  /// lost, where it "does not finish WHAT" in time.
  template <typename T>
  Status wait_until_over(cudaError_t (*query)(T), T handle, std::string_view what,
                         Deadline deadline) {
    for (Patience patience(kSpins);; patience.pause()) {
      RETURN_IF_ERROR(health());
      ASSIGN_OR_RETURN(const bool over, is_over(query(handle)));
      if (over) return {};
      if (deadline.expired()) return lose(label_ + " does not finish " + std::string(what));
    }
  }

 private:
  explicit Device(int ordinal) : ordinal_(ordinal) {}
  Status describe();

  const int ordinal_;
  CudaDeviceInfo info_;
  std::string label_;
  std::size_t workspace_bytes_ = 0;
  std::atomic<bool> lost_{false};  // set after reason_ is; pairs with lost()
  mutable std::mutex mutex_;
  std::string reason_;  // guarded by mutex_
};

template <auto kDestroy>
struct Destroy {
  Device* device = nullptr;
  template <typename T>
  void operator()(T* handle) const {
    if (!device->lost()) (void)device->check(kDestroy(handle), "destroy");
  }
};
/// Owns a CUDA handle: destroyed with `kDestroy`, unless its device is lost. One thread.
template <typename T, auto kDestroy>
using Handle = std::unique_ptr<std::remove_pointer_t<T>, Destroy<kDestroy>>;

using Stream = Handle<cudaStream_t, cudaStreamDestroy>;
using Event = Handle<cudaEvent_t, cudaEventDestroy>;
using Blas = Handle<cublasHandle_t, cublasDestroy>;

Result<Stream> make_stream(Device& device);
/// Timed: its place in a stream has a time.
Result<Event> make_event(Device& device);
Result<Blas> make_blas(Device& device);

}  // namespace airlock::cuda
