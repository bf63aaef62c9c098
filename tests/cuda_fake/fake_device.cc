#include "tests/cuda_fake/fake_device.h"

#include <utility>

#include "tests/cuda_fake/fake_state.h"

namespace airlock::cuda_fake {

std::vector<std::string> reset(const Options& options) {
  std::vector<std::string> found = take_misuses();
  {
    State& s = state();
    const Lock lock(s.mutex);
    if (!s.is_any_dead()) {
      for (std::string& leak : s.leaks()) found.push_back(std::move(leak));
    }
  }
  restart(options);
  return found;
}

std::vector<std::string> take_misuses() {
  State& s = state();
  const Lock lock(s.mutex);
  return std::exchange(s.misuses, {});
}

std::vector<std::string> leaks() {
  State& s = state();
  const Lock lock(s.mutex);
  return s.leaks();
}

std::uint64_t call_count() {
  State& s = state();
  const Lock lock(s.mutex);
  return s.calls;
}

std::uint64_t call_count(const std::string& function) {
  State& s = state();
  const Lock lock(s.mutex);
  const auto found = s.calls_of.find(function);
  return found == s.calls_of.end() ? 0 : found->second;
}

std::vector<std::string> calls() {
  State& s = state();
  const Lock lock(s.mutex);
  return {s.names.begin(), s.names.end()};
}

void fail_call(std::uint64_t nth, int cuda_error) { fail_function("", nth, cuda_error); }

void fail_function(const std::string& function, std::uint64_t nth, int cuda_error) {
  State& s = state();
  const Lock lock(s.mutex);
  s.failures.push_back({function, nth, static_cast<cudaError_t>(cuda_error)});
}

void lose_device_at_work(std::uint64_t nth, int cuda_error) {
  State& s = state();
  const Lock lock(s.mutex);
  s.lose_at_work = nth;
  s.lose_with = static_cast<cudaError_t>(cuda_error);
}

void set_hang(bool hang) {
  State& s = state();
  const Lock lock(s.mutex);
  s.options.hang = hang;
  s.changed.notify_all();
}

void set_register_fails(bool fails) {
  State& s = state();
  const Lock lock(s.mutex);
  s.options.register_fails = fails;
}

Counters counters() {
  State& s = state();
  const Lock lock(s.mutex);
  return s.counters;
}

std::vector<GemmCall> gemm_calls() {
  State& s = state();
  const Lock lock(s.mutex);
  return {s.gemms.begin(), s.gemms.end()};
}

std::size_t device_memory_in_use() {
  State& s = state();
  const Lock lock(s.mutex);
  std::size_t sum = 0;
  for (int device = 0; device < s.options.devices; ++device) sum += s.memory.used(device);
  return sum;
}

std::byte* host_view(const void* device_pointer) {
  State& s = state();
  const Lock lock(s.mutex);
  Access byte;
  byte.address = reinterpret_cast<std::uintptr_t>(device_pointer);
  byte.bytes = 1;
  for (int device = 0; device < s.options.devices; ++device) {
    Resolved at;
    if (is_device_address(byte.address) && s.memory.resolve(byte, device, at).empty()) {
      return at.data;
    }
  }
  return nullptr;
}

}  // namespace airlock::cuda_fake
