#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/deadline.h"
#include "base/status.h"
#include "shm/ring_memory.h"
#include "shm/wait.h"

namespace airlock {

/// The sending end of a ring. A message takes one slot a part, at most half of all; any free slots,
/// so that one that the reader holds for long blocks nobody. All its state is private: of the peer
/// it reads one flag a slot. One thread. After kProtocolError it is poisoned: every later call
/// returns that status. The segment must outlive it.
class RingProducer {
 public:
  static Result<RingProducer> create(const Segment& segment, const RingGeometry& geometry,
                                     std::uint64_t epoch, WaitMode mode = WaitMode::kFutex);

  /// Takes `count` free slots (1 to half of all, CHECKed), lowest first: those are warm in
  /// the cache. kBusy: so many were not free by the deadline, and none is taken; or what `check`
  /// says. Several claims may be open at once, and committed in any order.
  Result<std::vector<std::uint32_t>> claim(std::size_t count, Deadline deadline,
                                           const WaitCheck& check);
  /// The payload area of a claimed slot, as long as the geometry says, page-aligned. Valid until
  /// commit() or abort(). What lies there already is from this end's earlier messages.
  std::span<std::byte> payload(std::uint32_t slot);
  /// Publishes `slots` (one claim's or several claims', in this order) as one message: `header` (at
  /// most limits::kHeaderBytes) is copied, and must tell the reader what of each payload it is to
  /// read.
  Status commit(std::span<const std::uint32_t> slots, std::span<const std::byte> header);
  /// Gives claimed slots back unsent.
  void abort(std::span<const std::uint32_t> slots);

  /// Slots that are claimed, or published and not yet given back.
  std::size_t slots_in_use() const;
  WaitCounters counters() const {
    const WaitCounters& waits = waiter_.counters();
    return {waits.spins, waits.parks, slot_waits_};
  }

 private:
  enum class State : std::uint8_t { kFree, kClaimed, kPublished };
  struct Slot {
    std::uint32_t flag = 0;  // what we stored last, or found when it came back
    State state = State::kFree;
  };

  RingProducer(const RingMemory& memory, WaitMode mode)
      : memory_(memory), waiter_(mode), slots_(memory.slot_count()) {}
  bool find_free(std::size_t count);

  RingMemory memory_;
  Waiter waiter_;
  std::vector<Slot> slots_;
  std::uint64_t next_sequence_ = ring_layout::kFirstSequence;
  std::uint64_t slot_waits_ = 0;
  /// Why it is poisoned; ok while it is not.
  Status fault_;
};

/// One received message.
struct RingMessage {
  /// A private copy.
  std::vector<std::byte> header;
  /// At least one. To be released, each by itself.
  std::vector<std::uint32_t> slots;
};

/// The receiving end of a ring; see RingProducer. One thread.
class RingConsumer {
 public:
  static Result<RingConsumer> create(const Segment& segment, const RingGeometry& geometry,
                                     std::uint64_t epoch, WaitMode mode = WaitMode::kFutex);

  /// The next whole message, in the order of commits. kDeadlineExceeded: none came; or what `check`
  /// says; kProtocolError: the peer broke a rule. Its slots are held until release().
  Result<RingMessage> receive(Deadline deadline, const WaitCheck& check);
  /// The payload area of a held slot (CHECKed). The peer can still change the
  /// bytes: read each once, and verify only private copies.
  std::span<const std::byte> payload(std::uint32_t slot) const;
  /// Gives one held slot (CHECKed) back to the producer. In any order.
  void release(std::uint32_t slot);

  /// Slots of received messages that are not yet released. Who would hold more than half copies out
  /// instead: up to half, the producer always finds room for a message.
  std::size_t held_slots() const { return held_count_; }
  std::size_t slot_count() const { return slots_.size(); }
  const WaitCounters& counters() const { return waiter_.counters(); }

 private:
  enum class State : std::uint8_t { kEmpty, kPending, kHeld };
  struct Slot {
    std::uint32_t flag = 0;  // the producer's turn while kEmpty, ours otherwise
    State state = State::kEmpty;
    ring_layout::SlotHeader header = {};  // private copy, checked
  };

  RingConsumer(const RingMemory& memory, WaitMode mode);
  bool look();
  void scan();
  void admit(std::uint32_t slot);
  bool is_complete() const;
  std::uint32_t slot_of(std::uint64_t sequence) const {
    return by_sequence_[sequence % by_sequence_.size()];
  }
  Result<RingMessage> take();
  /// Sets the fault.
  template <typename... Args>
  void poison(fmt::format_string<Args...> format, Args&&... args);

  RingMemory memory_;
  Waiter waiter_;
  std::vector<Slot> slots_;
  /// The slot of each pending sequence, by its remainder, or kNoSlot.
  std::vector<std::uint32_t> by_sequence_;
  std::uint64_t next_sequence_ = ring_layout::kFirstSequence;
  /// The highest first sequence of any message of which a part was seen.
  std::uint64_t newest_start_ = 0;
  std::size_t held_count_ = 0;
  Status fault_;
};

}  // namespace airlock
