#pragma once

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

/// Stands in for the product's shm/shared_access.h: the ring's own sources, compiled with this
/// folder first on the include path, tell an Observer of each access instead of making it.
namespace airlock::shared {

/// What becomes of the ring's accesses: the model checker's memory (explorer.h), or the real one
/// with its fetches counted (fetch_counter.h).
class Observer {
 public:
  virtual ~Observer() = default;
  virtual std::uint64_t load(const void* word, std::size_t bytes, std::memory_order order) = 0;
  virtual void store(void* word, std::size_t bytes, std::uint64_t value,
                     std::memory_order order) = 0;
  virtual void add(std::uint32_t& word, std::uint32_t value, std::memory_order order) = 0;
  /// Called before plain bytes are read, or written.
  virtual void read(std::span<const std::byte> bytes) = 0;
  virtual void write(std::span<const std::byte> bytes) = 0;
  /// 0 or an errno.
  virtual int futex_wait(std::uint32_t& word, std::uint32_t seen, std::uint64_t timeout_ns) = 0;
  virtual void futex_wake(std::uint32_t& word) = 0;
  virtual void sleep_ns(std::uint64_t ns) = 0;
  virtual void pause_cpu() = 0;
  virtual bool can_spin() = 0;
};

/// Of this thread. One must be set before the ring is used.
inline thread_local Observer* observer = nullptr;

template <typename Word>
Word load(const Word& word, std::memory_order order) {
  return static_cast<Word>(observer->load(&word, sizeof(word), order));
}

template <typename Word>
void store(Word& word, Word value, std::memory_order order) {
  observer->store(&word, sizeof(word), value, order);
}

inline void add(std::uint32_t& word, std::uint32_t value, std::memory_order order) {
  observer->add(word, value, order);
}

inline std::vector<std::byte> copy_out(std::span<const std::byte> from) {
  observer->read(from);
  return {from.begin(), from.end()};
}

inline void copy_in(std::span<std::byte> to, std::span<const std::byte> from) {
  observer->write(to.first(from.size()));
  if (!from.empty()) std::memcpy(to.data(), from.data(), from.size());
}

inline void fill_zero(std::span<std::byte> to) {
  observer->write(to);
  if (!to.empty()) std::memset(to.data(), 0, to.size());
}

inline int futex_wait(std::uint32_t& word, std::uint32_t seen, std::uint64_t timeout_ns) {
  return observer->futex_wait(word, seen, timeout_ns);
}

inline void futex_wake(std::uint32_t& word) { observer->futex_wake(word); }
inline void sleep_ns(std::uint64_t ns) { observer->sleep_ns(ns); }
inline void pause_cpu() { observer->pause_cpu(); }
inline void yield_cpu() {}
inline bool can_spin() { return observer->can_spin(); }

}  // namespace airlock::shared
