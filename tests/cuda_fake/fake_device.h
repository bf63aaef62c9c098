#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

/// How a test steers and looks into the fake device: the CUDA runtime and cuBLAS functions that
/// gpu_server/cuda calls, over host memory, with the rules of CUDA checked. Linked instead of the
/// CUDA libraries. Thread-safe, but reset() needs that no other thread is in a CUDA call.
///
/// Device pointers are numbers that no host memory can have (a host access ends in SIGSEGV, as with
/// a GPU) and that are never given out twice, and so are handles.
///
/// Where no test calls reset(), the environment says what to be, read at the first call:
/// AIRLOCK_CUDA_FAKE_MODE (lazy, eager, threads), _DEVICES, _MEMORY_BYTES, _DRIVER_VERSION (12040),
/// _FAIL ("function:n:error", "*:n:error"), _STICKY ("n:error"), _REGISTER_FAILS=1, _HANG=1,
/// _GEMM_US, _ABORT=1 (abort at the first misuse). At exit a line "cuda_fake: N misuses" goes to
/// stderr, after leaks were counted among them.
namespace airlock::cuda_fake {

enum class Mode {
  kLazy,   // work runs as late as the rules allow: only what a query asks for the second time, and
           // what that depends on
  kEager,  // at once, in the call that queues it
  kThreads,  // a thread a stream; queries look only
};

struct Options {
  Mode mode = Mode::kLazy;
  int devices = 1;                                    // 0: cudaErrorNoDevice
  std::size_t memory_bytes = std::size_t{512} << 20;  // of each device
  int driver_version = 0;       // 12040 is 12.4; 0: the runtime's. Older than that: refused
  bool register_fails = false;  // cudaHostRegister: out of memory, as under a locked-memory limit
  bool hang = false;            // no queued work ever runs
  bool saturate_int8 = false;   // int32 sums end at their type's ends: they do not wrap
  // What a product takes beside its computing here, one at a time on a device. kThreads alone.
  std::chrono::microseconds gemm_time{0};
  bool report_pageable = false;  // a copy of host memory that is not registered is a misuse
};

/// What was done since reset().
struct Counters {
  std::uint64_t pinned_copies = 0;  // between the device and registered host memory
  std::uint64_t pageable_copies = 0;
  std::uint64_t device_copies = 0;  // within the device
  std::uint64_t bytes_in = 0;       // copied to the device
  std::uint64_t bytes_out = 0;
  std::uint64_t gemms = 0;  // calls; a batch is one
  std::uint64_t kernels = 0;
  std::uint64_t work_run = 0;  // copies, kernels and GEMMs that ran
  std::uint64_t injected_failures = 0;
};

/// A product that was queued, as it was asked for.
struct GemmCall {
  bool transposed_a = false;
  bool transposed_b = false;
  int m = 0;
  int n = 0;
  int k = 0;
  int batch_count = 1;
  int compute_type = 0;  // cublasComputeType_t
  int math_mode = 0;     // the handle's, cublasMath_t
  bool f32_operands = false;
};

/// Forgets everything and starts anew. Returns the misuses that nobody took, and the leaks.
std::vector<std::string> reset(const Options& options = {});
/// As in a process that begins. What was there is forgotten without a report.
void restart_from_environment();

/// Misuses so far, each one sentence, oldest first (a thousand at most); they count as seen.
std::vector<std::string> take_misuses();
/// What is still there: device memory, streams, events, cuBLAS handles, registrations. Not a
/// misuse until reset() or exit, and none after the device was lost or while it hangs.
std::vector<std::string> leaks();

/// Calls since reset(), of all functions or of one. cudaGetErrorName/String and
/// cublasGetStatusName/String cannot fail and are not counted; launch_convert and its like are.
std::uint64_t call_count();
std::uint64_t call_count(const std::string& function);
/// The last calls' names, oldest first, ten thousand at most.
std::vector<std::string> calls();

/// The n-th call since reset() (from 1) fails with `cuda_error` and does nothing; but one that
/// releases something releases it. An error that CUDA never recovers from loses the thread's
/// device. cuBLAS makes a cublasStatus_t of it: memory -> ALLOC_FAILED, a lost device ->
/// EXECUTION_FAILED, else INTERNAL_ERROR. Several may be asked for.
void fail_call(std::uint64_t nth, int cuda_error);
/// The n-th call of one function. "cudaMalloc", "cublasGemmEx", "launch_gather" ...
void fail_function(const std::string& function, std::uint64_t nth, int cuda_error);
/// The device is lost that the n-th copy, kernel or GEMM since reset() (of all devices) runs on:
/// from then on every call of a thread whose device it is returns `cuda_error`, in a cuBLAS
/// function CUBLAS_STATUS_EXECUTION_FAILED. A thread may learn that by one call; what it calls for
/// that device after that is a misuse. Other devices work on.
void lose_device_at_work(std::uint64_t nth, int cuda_error);
void set_hang(bool hang);
void set_register_fails(bool fails);

Counters counters();
/// The last thousand.
std::vector<GemmCall> gemm_calls();
/// Of all devices, in bytes.
std::size_t device_memory_in_use();
/// Where the fake keeps what is at a device address; null where that is not live device memory.
std::byte* host_view(const void* device_pointer);

}  // namespace airlock::cuda_fake
