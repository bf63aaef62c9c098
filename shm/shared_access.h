#pragma once

#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <climits>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <thread>
#include <vector>

/// Every access of the ring to memory that the peer maps too, and all by which it lets time pass:
/// the one home of atomics and futexes on shared words. Internal to ring_memory.cc and wait.cc,
/// which say what each order pairs with. All of it is inline and costs what its body says.
///
/// It is a seam. tests/model_check/seam/shm/shared_access.h stands in for this header where the
/// ring's sources are compiled again to be run by a model checker, or with their fetches counted.
/// So a function added here is added there.
namespace airlock::shared {

/// One access of the whole word. An atomic of the language, since the peer may write at any time.
template <typename Word>
Word load(const Word& word, std::memory_order order) {
  static_assert(std::atomic_ref<Word>::is_always_lock_free);
  // atomic_ref wants a mutable object; it is only read.
  return std::atomic_ref(const_cast<Word&>(word)).load(order);
}

template <typename Word>
void store(Word& word, Word value, std::memory_order order) {
  std::atomic_ref(word).store(value, order);
}

inline void add(std::uint32_t& word, std::uint32_t value, std::memory_order order) {
  std::atomic_ref(word).fetch_add(value, order);
}

/// Bytes that are ordered by a slot's flag. Each is fetched once, into private memory.
inline std::vector<std::byte> copy_out(std::span<const std::byte> from) {
  return {from.begin(), from.end()};
}

inline void copy_in(std::span<std::byte> to, std::span<const std::byte> from) {
  if (!from.empty()) std::memcpy(to.data(), from.data(), from.size());
}

inline void fill_zero(std::span<std::byte> to) {
  if (!to.empty()) std::memset(to.data(), 0, to.size());
}

/// Sleeps while `word` is `seen`, less than a second. 0 when woken, else the errno (EAGAIN: it was
/// not). Not FUTEX_PRIVATE, here and below: the other side is another process.
inline int futex_wait(std::uint32_t& word, std::uint32_t seen, std::uint64_t timeout_ns) {
  const timespec timeout = {0, static_cast<long>(timeout_ns)};
  return ::syscall(SYS_futex, &word, FUTEX_WAIT, seen, &timeout, nullptr, 0) == 0 ? 0 : errno;
}

inline void futex_wake(std::uint32_t& word) {
  ::syscall(SYS_futex, &word, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}

inline void sleep_ns(std::uint64_t ns) {
  std::this_thread::sleep_for(std::chrono::nanoseconds(ns));
}

/// Between two looks of a spin.
inline void pause_cpu() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

inline void yield_cpu() { ::sched_yield(); }

/// On a single CPU, spinning only delays the peer. The machine's CPUs count, not those of this
/// thread: the peer may be kept on another one.
inline bool can_spin() { return std::thread::hardware_concurrency() > 1; }

}  // namespace airlock::shared
