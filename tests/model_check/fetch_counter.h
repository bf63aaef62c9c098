#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "proto/ring.h"
#include "shm/segment.h"
#include "shm/shared_access.h"

namespace airlock {

/// Makes the ring's accesses on the real memory, and counts in one operation (a receive, a claim)
/// how often each byte of a ring is fetched. What the peer can change between two fetches must not
/// be fetched twice: the first would be checked and the second used.
///
/// Words that are polled (bells, waiting words, and flags of an operation that waits) may be
/// fetched again, and the identity in the superblock, which is compared and never used. Bytes that
/// are read past the seam are not seen; nothing but payload areas is handed out past it.
class FetchCounter final : public shared::Observer {
 public:
  /// Watches a ring; it must outlive the counter.
  void watch(const std::shared_ptr<Segment>& segment, const RingGeometry& geometry);
  /// A new operation. `looks`: how often each flag may be looked at, 0 where it may wait.
  void begin(std::string operation, unsigned looks);
  /// What was fetched too often since begin().
  std::vector<std::string> end();
  /// Bytes of the rings that were fetched since begin(): 0 where the seam is not in the program.
  std::size_t fetched_bytes() const;

  std::uint64_t load(const void* word, std::size_t bytes, std::memory_order order) override;
  void store(void* word, std::size_t bytes, std::uint64_t value, std::memory_order order) override;
  void add(std::uint32_t& word, std::uint32_t value, std::memory_order order) override;
  void read(std::span<const std::byte> bytes) override;
  void write(std::span<const std::byte>) override {}
  int futex_wait(std::uint32_t& word, std::uint32_t seen, std::uint64_t timeout_ns) override;
  void futex_wake(std::uint32_t& word) override;
  void sleep_ns(std::uint64_t ns) override;
  void pause_cpu() override {}
  bool can_spin() override { return true; }

 private:
  struct Ring {
    std::shared_ptr<Segment> segment;
    RingGeometry geometry;
    /// Of each byte since begin(); those that are not 0 are in `touched`.
    std::vector<unsigned> fetches;
    std::vector<std::size_t> touched;
  };
  /// How often a byte may be fetched in one operation, and what it is; 0: any number of times.
  struct Rule {
    unsigned limit = 0;
    std::string name;
  };
  Rule rule_of(const Ring& ring, std::size_t offset) const;

  std::vector<Ring> rings_;
  std::string operation_;
  unsigned looks_ = 0;
};

}  // namespace airlock
