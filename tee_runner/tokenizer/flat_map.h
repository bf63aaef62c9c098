#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/mix.h"
#include "tee_runner/tokenizer/text_hash.h"

namespace airlock {

/// A hash table from 64-bit keys that only grows, in one block of memory: lookups are what a
/// tokenizer spends its time on. Thread-safe while nobody inserts.
template <typename Value>
class FlatMap {
 public:
  explicit FlatMap(std::size_t expected = 0) { rehash(std::bit_ceil(expected * 2 + 8)); }

  const Value* find(std::uint64_t key) const {
    const Slot& slot = slots_[place_of(key)];
    return slot.used ? &slot.value : nullptr;
  }
  /// The value of the key, made where there was none; valid until the next call.
  Value& operator[](std::uint64_t key) {
    if ((size_ + 1) * 2 > slots_.size()) rehash(slots_.size() * 2);
    Slot& slot = slots_[place_of(key)];
    if (!slot.used) {
      slot = {key, {}, true};
      ++size_;
    }
    return slot.value;
  }

 private:
  struct Slot {
    std::uint64_t key = 0;
    Value value{};
    bool used = false;
  };

  std::size_t place_of(std::uint64_t key) const {
    std::size_t place = mix(key ^ seed_) & (slots_.size() - 1);
    while (slots_[place].used && slots_[place].key != key)
      place = (place + 1) & (slots_.size() - 1);
    return place;
  }
  void rehash(std::size_t count) {
    std::vector<Slot> old(count);
    old.swap(slots_);
    for (Slot& slot : old) {
      if (slot.used) slots_[place_of(slot.key)] = slot;
    }
  }

  std::uint64_t seed_ = hash_seed();
  std::vector<Slot> slots_;
  std::size_t size_ = 0;
};

/// Two numbers in a row as a key.
inline std::uint64_t pair_key(std::uint32_t first, std::uint32_t second) {
  return std::uint64_t{first} << 32U | second;
}

}  // namespace airlock
