#include "tests/model_check/fetch_counter.h"

#include <fmt/format.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <climits>
#include <utility>

#include "shm/ring_layout.h"

namespace airlock {

void FetchCounter::watch(const std::shared_ptr<Segment>& segment, const RingGeometry& geometry) {
  rings_.push_back({segment, geometry, std::vector<unsigned>(segment->bytes().size()), {}});
}

void FetchCounter::begin(std::string operation, unsigned looks) {
  operation_ = std::move(operation);
  looks_ = looks;
  for (Ring& ring : rings_) {
    for (const std::size_t offset : std::exchange(ring.touched, {})) ring.fetches[offset] = 0;
  }
}

FetchCounter::Rule FetchCounter::rule_of(const Ring& ring, std::size_t offset) const {
  const ring_layout::RingOffsets at = *ring_layout::ring_offsets(ring.geometry);
  if (offset < at.control) return {0, "superblock"};
  if (offset < at.header) {
    const std::size_t slot = (offset - at.control) / sizeof(ring_layout::SlotControl);
    const std::size_t within = (offset - at.control) % sizeof(ring_layout::SlotControl);
    if (within < offsetof(ring_layout::SlotControl, header))
      return {looks_, fmt::format("flag {}", slot)};
    return {1, fmt::format("the word at {} of the header of slot {}",
                           (within - offsetof(ring_layout::SlotControl, header)) / 8 * 8, slot)};
  }
  if (offset >= at.payload) return {1, "payload"};
  return {1, fmt::format("the message header from {} on in slot {}",
                         (offset - at.header) % limits::kHeaderBytes / 64 * 64,
                         (offset - at.header) / limits::kHeaderBytes)};
}

std::vector<std::string> FetchCounter::end() {
  std::vector<std::string> faults;
  for (const Ring& ring : rings_) {
    std::string last;
    for (const std::size_t offset : ring.touched) {
      const Rule rule = rule_of(ring, offset);
      if (rule.limit == 0 || ring.fetches[offset] <= rule.limit || rule.name == last) continue;
      faults.push_back(fmt::format("{}: {} is fetched {} times, may be {}", operation_, rule.name,
                                   ring.fetches[offset], rule.limit));
      last = rule.name;
    }
  }
  return faults;
}

std::size_t FetchCounter::fetched_bytes() const {
  std::size_t bytes = 0;
  for (const Ring& ring : rings_) bytes += ring.touched.size();
  return bytes;
}

void FetchCounter::read(std::span<const std::byte> bytes) {
  for (Ring& ring : rings_) {
    const std::span<std::byte> all = ring.segment->bytes();
    if (bytes.data() < all.data() || bytes.data() >= all.data() + all.size()) continue;
    const auto begin = static_cast<std::size_t>(bytes.data() - all.data());
    for (std::size_t offset = begin; offset < begin + bytes.size(); ++offset) {
      if (ring.fetches[offset]++ == 0) ring.touched.push_back(offset);
    }
  }
}

std::uint64_t FetchCounter::load(const void* word, std::size_t bytes, std::memory_order order) {
  read({static_cast<const std::byte*>(word), bytes});
  void* const at = const_cast<void*>(word);
  if (bytes == sizeof(std::uint32_t))
    return std::atomic_ref(*static_cast<std::uint32_t*>(at)).load(order);
  return std::atomic_ref(*static_cast<std::uint64_t*>(at)).load(order);
}

void FetchCounter::store(void* word, std::size_t bytes, std::uint64_t value,
                         std::memory_order order) {
  if (bytes == sizeof(std::uint32_t)) {
    std::atomic_ref(*static_cast<std::uint32_t*>(word))
        .store(static_cast<std::uint32_t>(value), order);
  } else {
    std::atomic_ref(*static_cast<std::uint64_t*>(word)).store(value, order);
  }
}

void FetchCounter::add(std::uint32_t& word, std::uint32_t value, std::memory_order order) {
  std::atomic_ref(word).fetch_add(value, order);
}

int FetchCounter::futex_wait(std::uint32_t& word, std::uint32_t seen, std::uint64_t timeout_ns) {
  const timespec timeout = {0, static_cast<long>(timeout_ns)};
  return ::syscall(SYS_futex, &word, FUTEX_WAIT, seen, &timeout, nullptr, 0) == 0 ? 0 : errno;
}

void FetchCounter::futex_wake(std::uint32_t& word) {
  ::syscall(SYS_futex, &word, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}

void FetchCounter::sleep_ns(std::uint64_t ns) {
  const timespec span = {0, static_cast<long>(ns)};
  ::nanosleep(&span, nullptr);
}

}  // namespace airlock
