#include "tests/cuda_fake/fake_state.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <utility>

namespace airlock::cuda_fake {

namespace {

constexpr std::size_t kMaxMisuses = 1000;
constexpr std::size_t kMaxNames = 10000;

std::string variable(const char* name) {
  const char* value = std::getenv(fmt::format("AIRLOCK_CUDA_FAKE_{}", name).c_str());
  return value == nullptr ? "" : value;
}

std::uint64_t number(const std::string& text, std::uint64_t otherwise) {
  return text.empty() ? otherwise : std::strtoull(text.c_str(), nullptr, 0);
}

Options options_from_environment() {
  Options options;
  const std::string mode = variable("MODE");
  if (mode == "eager") {
    options.mode = Mode::kEager;
  } else if (mode == "threads") {
    options.mode = Mode::kThreads;
  } else if (!mode.empty() && mode != "lazy") {
    fmt::print(stderr, "cuda_fake: AIRLOCK_CUDA_FAKE_MODE is lazy, eager or threads, not {}\n",
               mode);
    std::abort();
  }
  options.devices = static_cast<int>(number(variable("DEVICES"), 1));
  options.memory_bytes = number(variable("MEMORY_BYTES"), options.memory_bytes);
  options.driver_version = static_cast<int>(number(variable("DRIVER_VERSION"), 0));
  options.register_fails = variable("REGISTER_FAILS") == "1";
  options.hang = variable("HANG") == "1";
  options.gemm_time = std::chrono::microseconds(number(variable("GEMM_US"), 0));
  return options;
}

/// "NAME:n:error", "n:error".
void take_failures_from_environment(State& state) {
  const std::string fail = variable("FAIL");
  const std::size_t first = fail.find(':');
  const std::size_t second = fail.find(':', first + 1);
  if (first != std::string::npos && second != std::string::npos) {
    const std::string name = fail.substr(0, first);
    state.failures.push_back({name == "*" ? "" : name,
                              number(fail.substr(first + 1, second - first - 1), 0),
                              static_cast<cudaError_t>(number(fail.substr(second + 1), 0))});
  }
  const std::string sticky = variable("STICKY");
  if (const std::size_t colon = sticky.find(':'); colon != std::string::npos) {
    state.lose_at_work = number(sticky.substr(0, colon), 0);
    state.lose_with = static_cast<cudaError_t>(number(sticky.substr(colon + 1), 0));
  }
}

void report_at_exit() {
  State& s = state();
  Lock lock(s.mutex);
  s.schedule.stop(lock);
  if (!s.is_any_dead()) {
    for (const std::string& leak : s.leaks()) s.misuse(leak);
  }
  fmt::print(stderr, "cuda_fake: {} misuses\n", s.misuses.size());
}

State* state_from_environment() {
  auto* made = new State(options_from_environment());
  made->aborts = variable("ABORT") == "1";
  take_failures_from_environment(*made);
  return made;
}

State* first_state() {
  std::atexit(report_at_exit);
  return state_from_environment();
}

/// Lives until the process is gone.
State*& current_state() {
  static State* current = first_state();
  return current;
}

void replace_state(State* fresh) {
  State*& current = current_state();
  {
    Lock lock(current->mutex);
    current->schedule.stop(lock);
    current->schedule.abandon(std::nullopt);
  }
  delete std::exchange(current, fresh);
}

}  // namespace

std::uint64_t thread_number() {
  static std::atomic<std::uint64_t> last{0};
  thread_local const std::uint64_t mine = last.fetch_add(1, std::memory_order_relaxed) + 1;
  return mine;
}

bool loses_device(cudaError_t error) {
  switch (error) {
    case cudaErrorECCUncorrectable:
    case cudaErrorNvlinkUncorrectable:
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchTimeout:
    case cudaErrorAssert:
    case cudaErrorHardwareStackError:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorLaunchFailure:
      return true;
    default:
      return false;
  }
}

State& state() { return *current_state(); }

void restart(const Options& options) {
  auto* fresh = new State(options);
  fresh->aborts = state().aborts;
  replace_state(fresh);
}

void restart_from_environment() { replace_state(state_from_environment()); }

Entered State::enter(const char* function, CallKind kind) {
  ++calls;
  const std::uint64_t nth = ++calls_of[function];
  names.emplace_back(function);
  if (names.size() > kMaxNames) names.pop_front();

  const int device = current_device();
  if (lost(device) != cudaSuccess && kind != CallKind::kVersion && kind != CallKind::kSwitch) {
    if (kind == CallKind::kErrorQuery) return {lost(device), false};
    return {tell_loss(device, function), false};
  }
  if (kind != CallKind::kVersion && kind != CallKind::kErrorQuery) {
    if (options.driver_version != 0 && options.driver_version < CUDART_VERSION) {
      return {cudaErrorInsufficientDriver, false};
    }
    if (options.devices == 0) return {cudaErrorNoDevice, false};
  }
  for (const Failure& failure : failures) {
    const bool hit = failure.function.empty() ? failure.nth == calls
                                              : failure.function == function && failure.nth == nth;
    if (!hit) continue;
    ++counters.injected_failures;
    if (loses_device(failure.error)) lose(device, failure.error);
    if (lost(device) != cudaSuccess) knows_of_loss_.emplace(thread_number(), device);
    return {failure.error, true};
  }
  return {};
}

cudaError_t State::leave(cudaError_t result, CallKind kind) {
  if (kind == CallKind::kVersion || kind == CallKind::kErrorQuery) return result;
  const int device = current_device();
  if (lost(device) != cudaSuccess && kind != CallKind::kSwitch) {
    knows_of_loss_.emplace(thread_number(), device);
    result = lost(device);
  }
  if (result != cudaSuccess) last_errors_[thread_number()] = result;
  return result;
}

cudaError_t State::last_error() {
  if (lost(current_device()) != cudaSuccess) return lost(current_device());
  const auto found = last_errors_.find(thread_number());
  return found == last_errors_.end() ? cudaSuccess : found->second;
}

cudaError_t State::take_last_error() {
  const cudaError_t error = last_error();
  last_errors_.erase(thread_number());
  return error;
}

void State::misuse(const std::string& sentence) {
  fmt::print(stderr, "cuda_fake: misuse: {}\n", sentence);
  if (aborts) std::abort();
  if (misuses.size() < kMaxMisuses) misuses.push_back(sentence);
}

void State::lose(int device, cudaError_t error) {
  lost_.emplace(device, error);
  schedule.abandon(device);
}

cudaError_t State::lost(int device) const {
  const auto found = lost_.find(device);
  return found == lost_.end() ? cudaSuccess : found->second;
}

cudaError_t State::tell_loss(int device, const char* function) {
  if (!knows_of_loss_.emplace(thread_number(), device).second) {
    misuse(fmt::format("{} after this thread was told that the device is lost", function));
  }
  return lost(device);
}

bool State::start_work(int device) {
  ++counters.work_run;
  if (counters.work_run != lose_at_work) return true;
  ++counters.injected_failures;
  lose(device, lose_with);
  return false;
}

std::vector<std::string> State::leaks() const {
  std::vector<std::string> found = memory.leaks();
  for (const std::string& leak : schedule.leaks()) found.push_back(leak);
  found.insert(found.end(), blas.size(), "a cuBLAS handle was not destroyed");
  return found;
}

}  // namespace airlock::cuda_fake
