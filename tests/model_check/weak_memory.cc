#include "tests/model_check/weak_memory.h"

#include <fmt/format.h>

#include <cstring>

#include "base/check.h"

namespace airlock::model_check {
namespace {

constexpr std::size_t kCellBytes = 8;

}  // namespace

void WeakMemory::Knowledge::join(const Knowledge& other) {
  model_check::join(clock, other.clock);
  for (std::size_t i = 0; i < view.size(); ++i) view[i] = std::max(view[i], other.view[i]);
}

void WeakMemory::reset() {
  for (std::size_t i = 0; i < word_count_; ++i) words_[i].stores.clear();
  word_count_ = 0;
  sequential_ = {};
  ++execution_;
  for (std::size_t i = 0; i < threads_.size(); ++i) {
    threads_[i] = {};
    threads_[i].now.clock[i] = 1;
  }
}

void WeakMemory::set_plain_region(std::span<const std::byte> region) {
  region_ = region;
  cells_.assign(region.size() / kCellBytes + 1, {});
}

bool WeakMemory::is_plain(const void* address) const {
  const auto* byte = static_cast<const std::byte*>(address);
  if (byte < region_.data() || byte >= region_.data() + region_.size()) return false;
  for (std::size_t i = 0; i < word_count_; ++i) {
    if (words_[i].address == address) return false;
  }
  return true;
}

std::uint8_t WeakMemory::word_at(const void* address, std::size_t bytes) {
  for (std::uint8_t i = 0; i < word_count_; ++i) {
    if (words_[i].address == address) return i;
  }
  CHECK(word_count_ < kMaxWords && bytes <= sizeof(std::uint64_t));
  Word& word = words_[word_count_];
  word.address = const_cast<void*>(address);
  word.bytes = bytes;
  word.name.clear();
  Store initial;
  std::memcpy(&initial.value, address, bytes);
  word.stores.push_back(initial);
  return static_cast<std::uint8_t>(word_count_++);
}

std::string WeakMemory::name_of(std::uint8_t word) const {
  return words_[word].name.empty() ? fmt::format("word {}", word) : words_[word].name;
}

void WeakMemory::name_word(const void* address, std::size_t bytes, std::string name) {
  words_[word_at(address, bytes)].name = std::move(name);
}

std::size_t WeakMemory::oldest_readable(std::size_t thread, std::uint8_t word,
                                        std::memory_order order) const {
  const std::size_t known = threads_[thread].now.view[word];
  return order == std::memory_order_seq_cst ? std::max<std::size_t>(known, sequential_[word])
                                            : known;
}

void WeakMemory::load(std::size_t thread, std::uint8_t word, std::size_t index,
                      std::memory_order order) {
  Thread& reader = threads_[thread];
  const auto read = static_cast<std::uint8_t>(index);
  reader.now.view[word] = std::max(reader.now.view[word], read);
  const Knowledge& released = words_[word].stores[index].released;
  (acquires(order) ? reader.now : reader.acquirable).join(released);
  if (order == std::memory_order_seq_cst) sequential_[word] = std::max(sequential_[word], read);
}

bool WeakMemory::append(std::size_t thread, std::uint8_t word, std::uint64_t value,
                        std::memory_order order, const Knowledge& carried_on) {
  Word& into = words_[word];
  Thread& writer = threads_[thread];
  const Store& before = into.stores.back();
  const bool ordered = writer.now.clock[before.thread] >= before.event;
  const auto index = static_cast<std::uint8_t>(into.stores.size());
  writer.now.view[word] = index;
  Store store;
  store.value = value;
  store.thread = thread;
  store.event = writer.now.clock[thread];
  store.released = releases(order) ? writer.now : writer.fenced;
  store.released.join(carried_on);
  into.stores.push_back(store);
  if (order == std::memory_order_seq_cst) sequential_[word] = index;
  // The memory itself holds the newest value, for who looks on from outside.
  std::memcpy(into.address, &value, into.bytes);
  return ordered;
}

bool WeakMemory::store(std::size_t thread, std::uint8_t word, std::uint64_t value,
                       std::memory_order order) {
  return append(thread, word, value, order, {});
}

bool WeakMemory::add(std::size_t thread, std::uint8_t word, std::uint64_t value,
                     std::memory_order order) {
  const std::size_t index = newest(word);
  load(thread, word, index, order);
  const Store& read = words_[word].stores[index];
  std::uint64_t sum = read.value + value;
  if (words_[word].bytes == sizeof(std::uint32_t)) sum = static_cast<std::uint32_t>(sum);
  const Knowledge carried_on = read.released;
  return append(thread, word, sum, order, carried_on);
}

void WeakMemory::fence(std::size_t thread, std::memory_order order) {
  Thread& self = threads_[thread];
  if (acquires(order)) self.now.join(self.acquirable);
  if (order == std::memory_order_seq_cst) {
    for (std::size_t i = 0; i < kMaxWords; ++i) {
      sequential_[i] = self.now.view[i] = std::max(sequential_[i], self.now.view[i]);
    }
  }
  if (releases(order)) self.fenced = self.now;
}

void WeakMemory::let_time_pass(std::size_t thread) {
  for (std::uint8_t i = 0; i < word_count_; ++i) {
    threads_[thread].now.view[i] = static_cast<std::uint8_t>(newest(i));
  }
}

std::optional<std::string> WeakMemory::read(std::size_t thread, std::span<const std::byte> bytes) {
  return access(thread, bytes, false);
}

std::optional<std::string> WeakMemory::write(std::size_t thread, std::span<const std::byte> bytes) {
  return access(thread, bytes, true);
}

std::optional<std::string> WeakMemory::access(std::size_t thread, std::span<const std::byte> bytes,
                                              bool is_write) {
  if (bytes.empty()) return {};
  const auto offset = static_cast<std::size_t>(bytes.data() - region_.data());
  CHECK(bytes.data() >= region_.data() && offset + bytes.size() <= region_.size());
  const EventClock& known = threads_[thread].now.clock;
  const auto race = [&](std::size_t cell, std::size_t other, const char* what) {
    return fmt::format("thread {} {} the bytes at offset {} and thread {} {}, unordered", thread,
                       is_write ? "writes" : "reads", cell * kCellBytes, other, what);
  };
  for (std::size_t i = offset / kCellBytes; i <= (offset + bytes.size() - 1) / kCellBytes; ++i) {
    Cell& cell = cells_[i];
    if (cell.execution != execution_) {
      cell = {};
      cell.execution = execution_;
    }
    if (known[cell.writer] < cell.written_at) return race(i, cell.writer, "wrote them");
    if (!is_write) {
      cell.read_at[thread] = known[thread];
      continue;
    }
    for (std::size_t other = 0; other < kMaxThreads; ++other) {
      if (known[other] < cell.read_at[other]) return race(i, other, "read them");
    }
    cell.writer = static_cast<std::uint8_t>(thread);
    cell.written_at = known[thread];
  }
  return {};
}

}  // namespace airlock::model_check
