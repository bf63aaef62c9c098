#pragma once

#include <cublas_v2.h>
#include <cuda_runtime_api.h>

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "tests/cuda_fake/fake_device.h"
#include "tests/cuda_fake/fake_memory.h"
#include "tests/cuda_fake/fake_schedule.h"

/// Internal to tests/cuda_fake: everything the fake functions share, and what each of them does
/// first and last.
namespace airlock::cuda_fake {

/// A number for the calling thread that no other ever has.
std::uint64_t thread_number();
/// One that the device does not come back from.
bool loses_device(cudaError_t error);

struct BlasHandle {
  int device = 0;
  StreamId stream = 0;  // 0: the default stream
  Access workspace;     // 0 bytes: none since the last cublasSetStream
  cublasMath_t math = CUBLAS_DEFAULT_MATH;
  std::uint64_t thread = 0;  // the only one that may use it; 0: not used yet
  std::uint64_t last_position = 0;
};

enum class CallKind {
  kOrdinary,
  kSwitch,      // to another device: that the thread's own is lost does not matter
  kRelease,     // does its work even where it is made to fail
  kErrorQuery,  // allowed after the device was lost
  kVersion,     // and needs no device
};

struct Entered {
  cudaError_t error = cudaSuccess;  // with which the call is to fail
  bool injected = false;
};

class State {
 public:
  explicit State(const Options& wanted) : options(wanted), schedule(*this) {}

  Entered enter(const char* function, CallKind kind);
  /// Returns what the call returns.
  cudaError_t leave(cudaError_t result, CallKind kind);
  void misuse(const std::string& sentence);
  /// The device is lost from here on, the others are not.
  void lose(int device, cudaError_t error);
  /// cudaSuccess: it is not.
  cudaError_t lost(int device) const;
  /// What a call for a lost device returns; the second of a thread is a misuse.
  cudaError_t tell_loss(int device, const char* function);
  /// Nothing of the device's runs any more.
  bool is_dead(int device) const { return options.hang || lost(device) != cudaSuccess; }
  bool is_any_dead() const { return options.hang || !lost_.empty(); }
  /// The next work runs, of this device. false where that loses it.
  bool start_work(int device);
  /// Held by the product that a device is at; it outlives State::mutex's lock.
  std::mutex& product_turn(int device) { return product_turns_[device]; }
  int& current_device() { return current_devices_[thread_number()]; }
  /// The calling thread's, and forgets it.
  cudaError_t take_last_error();
  cudaError_t last_error();
  std::vector<std::string> leaks() const;

  std::mutex mutex;
  std::condition_variable changed;  // something ran, or there is something to run
  Options options;
  Counters counters;
  std::deque<GemmCall> gemms;
  std::vector<std::string> misuses;
  std::deque<std::string> names;
  std::uint64_t calls = 0;
  std::map<std::string, std::uint64_t> calls_of;
  struct Failure {
    std::string function;  // empty: any
    std::uint64_t nth = 0;
    cudaError_t error = cudaSuccess;
  };
  std::vector<Failure> failures;
  std::uint64_t lose_at_work = 0;  // 0: never
  cudaError_t lose_with = cudaSuccess;
  bool aborts = false;
  Memory memory;
  Schedule schedule;
  std::map<std::uintptr_t, BlasHandle> blas;

 private:
  std::map<std::uint64_t, int> current_devices_;
  std::map<std::uint64_t, cudaError_t> last_errors_;
  std::map<int, std::mutex> product_turns_;                // of each device
  std::map<int, cudaError_t> lost_;                        // devices
  std::set<std::pair<std::uint64_t, int>> knows_of_loss_;  // threads, of a device
};

/// The one there is.
State& state();
/// Another takes its place. The old one's threads end first.
void restart(const Options& options);

/// A CUDA function: `body` (State&, Lock&) -> cudaError_t between enter() and leave().
template <typename Body>
cudaError_t call(const char* function, CallKind kind, const Body& body) {
  State& s = state();
  Lock lock(s.mutex);
  const Entered entered = s.enter(function, kind);
  cudaError_t result = entered.error;
  if (result == cudaSuccess) {
    result = body(s, lock);
  } else if (entered.injected && kind == CallKind::kRelease) {
    static_cast<void>(body(s, lock));
  }
  return s.leave(result, kind);
}

template <typename Body>
cudaError_t call(const char* function, const Body& body) {
  return call(function, CallKind::kOrdinary, body);
}

}  // namespace airlock::cuda_fake
