#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

/// The memory of the C++ standard, run step by step: what each load may read, and which accesses
/// happen before which.
///
/// A word keeps all that was ever stored in it, in modification order. A thread knows, for each
/// word, how far that history has come for it (its view): a load may read any store from there on,
/// so a thread can run behind, each in its own way. A release hands the thread's whole knowledge to
/// whoever acquires it; a relaxed access hands over nothing; a read-modify-write reads the newest
/// store and carries on the release sequence that it found. Sequentially consistent accesses
/// share one more view, which such a load cannot read behind.
///
/// Two limits. A store enters its word's modification order when it is executed, so executions
/// where the orders of two words contradict the program (2+2W) are not made: harmless where all
/// stores of a word are ordered by happens-before, which can be demanded and then is checked. And
/// no load reads a store that is executed after it (load buffering), as in the model RC11. The
/// order S of the sequentially consistent accesses agrees with happens-before, as C++11 has it and
/// x86-64 and AArch64 keep it; C++20 demands less, for Power.
namespace airlock::model_check {

inline constexpr std::size_t kMaxThreads = 4;
inline constexpr std::size_t kMaxWords = 16;
/// Of one word in one execution.
inline constexpr std::size_t kMaxStores = 60;

/// How many events of each thread are known; as a vector clock.
using EventClock = std::array<std::uint16_t, kMaxThreads>;

inline void join(EventClock& into, const EventClock& other) {
  for (std::size_t i = 0; i < into.size(); ++i) into[i] = std::max(into[i], other[i]);
}

constexpr bool acquires(std::memory_order order) {
  return order == std::memory_order_acquire || order == std::memory_order_acq_rel ||
         order == std::memory_order_seq_cst;
}
constexpr bool releases(std::memory_order order) {
  return order == std::memory_order_release || order == std::memory_order_acq_rel ||
         order == std::memory_order_seq_cst;
}

class WeakMemory {
 public:
  /// Forgets all words and accesses; a new execution begins.
  void reset();
  /// Bytes in which an access by load() of the explorer that is not to one of the words is plain:
  /// watched for races. Once, before everything.
  void set_plain_region(std::span<const std::byte> region);
  bool is_plain(const void* address) const;

  /// The word at `address`; one that is not known yet begins with the value that it has there.
  std::uint8_t word_at(const void* address, std::size_t bytes);
  std::string name_of(std::uint8_t word) const;
  void name_word(const void* address, std::size_t bytes, std::string name);

  /// What a load may read is oldest_readable() to newest(), as indices into the history.
  std::size_t oldest_readable(std::size_t thread, std::uint8_t word, std::memory_order order) const;
  std::size_t newest(std::uint8_t word) const { return words_[word].stores.size() - 1; }
  std::uint64_t value(std::uint8_t word, std::size_t index) const {
    return words_[word].stores[index].value;
  }

  void load(std::size_t thread, std::uint8_t word, std::size_t index, std::memory_order order);
  /// False where the word's store before it does not happen before this one.
  bool store(std::size_t thread, std::uint8_t word, std::uint64_t value, std::memory_order order);
  /// Adds to the newest value.
  bool add(std::size_t thread, std::uint8_t word, std::uint64_t value, std::memory_order order);
  void fence(std::size_t thread, std::memory_order order);
  /// All that was stored becomes visible to the thread, as it does in finite time; that orders
  /// nothing.
  void let_time_pass(std::size_t thread);
  /// Ends the thread's event: what it does from now on is not known to who acquired it before.
  void tick(std::size_t thread) { ++threads_[thread].now.clock[thread]; }

  /// A plain access of bytes in the region. What it races with, if it does.
  std::optional<std::string> read(std::size_t thread, std::span<const std::byte> bytes);
  std::optional<std::string> write(std::size_t thread, std::span<const std::byte> bytes);

 private:
  using View = std::array<std::uint8_t, kMaxWords>;
  /// What happens before a point of a thread.
  struct Knowledge {
    EventClock clock = {};
    View view = {};
    void join(const Knowledge& other);
  };
  struct Store {
    std::uint64_t value = 0;
    /// Of whoever acquires it.
    Knowledge released;
    std::size_t thread = 0;
    /// The thread's own count at the store; 0 for the initial value.
    std::uint16_t event = 0;
  };
  struct Word {
    void* address = nullptr;
    std::size_t bytes = 0;
    std::string name;
    std::vector<Store> stores;
  };
  struct Thread {
    Knowledge now;
    /// What an acquire fence would add: released to relaxed loads.
    Knowledge acquirable;
    /// What the last release fence covers: a relaxed store releases it.
    Knowledge fenced;
  };
  /// Eight bytes of the region: who touched them last.
  struct Cell {
    std::uint32_t execution = 0;
    std::uint8_t writer = 0;
    std::uint16_t written_at = 0;
    EventClock read_at = {};
  };

  bool append(std::size_t thread, std::uint8_t word, std::uint64_t value, std::memory_order order,
              const Knowledge& carried_on);
  std::optional<std::string> access(std::size_t thread, std::span<const std::byte> bytes,
                                    bool is_write);

  std::size_t word_count_ = 0;
  std::array<Word, kMaxWords> words_;
  std::array<Thread, kMaxThreads> threads_;
  View sequential_ = {};
  std::span<const std::byte> region_;
  std::vector<Cell> cells_;
  std::uint32_t execution_ = 0;
};

}  // namespace airlock::model_check
