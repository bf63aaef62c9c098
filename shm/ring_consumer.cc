#include <algorithm>
#include <limits>
#include <utility>

#include "base/check.h"
#include "shm/ring.h"

namespace airlock {
namespace {

constexpr std::uint32_t kNoSlot = std::numeric_limits<std::uint32_t>::max();

}  // namespace

Result<RingConsumer> RingConsumer::create(const Segment& segment, const RingGeometry& geometry,
                                          std::uint64_t epoch, WaitMode mode) {
  ASSIGN_OR_RETURN(RingMemory memory, RingMemory::attach(segment, geometry, epoch));
  return RingConsumer(memory, mode);
}

RingConsumer::RingConsumer(const RingMemory& memory, WaitMode mode)
    : memory_(memory),
      waiter_(mode),
      slots_(memory.slot_count()),
      by_sequence_(memory.slot_count(), kNoSlot) {}

Result<RingMessage> RingConsumer::receive(Deadline deadline, const WaitCheck& check) {
  if (!fault_.ok()) return fault_;
  const Status waited = waiter_.wait(
      memory_.published(), [this] { return look(); }, deadline, check);
  if (!fault_.ok()) return fault_;
  RETURN_IF_ERROR(waited);
  return take();
}

template <typename... Args>
void RingConsumer::poison(fmt::format_string<Args...> format, Args&&... args) {
  // A truncated segment reads as zeros; then that is the fault to tell.
  fault_ = memory_.check();
  if (fault_.ok()) fault_ = {StatusCode::kProtocolError, format, std::forward<Args>(args)...};
}

/// True once the next message is there whole, or the ring is poisoned.
bool RingConsumer::look() {
  fault_ = memory_.check();
  if (!fault_.ok() || is_complete()) return true;
  scan();
  if (!fault_.ok() || is_complete()) return true;
  // Part 0 is published after its message's other parts, and a message after all before it. So once
  // part 0 of this message or any part of a later one was seen, one more pass must find the rest.
  const bool must_be_there = slot_of(next_sequence_) != kNoSlot || newest_start_ > next_sequence_;
  if (!must_be_there) return false;
  scan();
  if (fault_.ok() && !is_complete())
    poison("the ring's next part, sequence {}, was left out", next_sequence_);
  return true;
}

/// Admits what was published, lowest slot first (where the producer put it, if it could), until a
/// message is whole.
void RingConsumer::scan() {
  for (std::uint32_t i = 0; i < slots_.size(); ++i) {
    const Slot& slot = slots_[i];
    if (slot.state != State::kEmpty) continue;
    const std::uint32_t flag = memory_.load_flag(i);  // acquire, pairs with RingProducer::commit()
    if (flag == slot.flag) continue;
    if (flag != slot.flag + 1)
      return poison("ring slot {} has flag {}, expected {} or the next", i, flag, slot.flag);
    admit(i);
    if (!fault_.ok() || is_complete()) return;
  }
}

void RingConsumer::admit(std::uint32_t index) {
  const ring_layout::SlotHeader header = memory_.load_slot_header(index);
  // Wraps for a replay, and is refused.
  const std::uint64_t ahead = header.sequence - next_sequence_;
  if (header.epoch != memory_.epoch())
    return poison("ring slot {} has another session's epoch", index);
  if (ahead >= slots_.size() || slot_of(header.sequence) != kNoSlot) {
    return poison("ring slot {} has sequence {}, expected {}", index, header.sequence,
                  next_sequence_);
  }
  if (header.part_count == 0 || header.part_count > slots_.size() / 2 ||
      header.part_index >= header.part_count || header.part_index > ahead) {
    return poison("ring slot {} has part {} of {}", index, header.part_index, header.part_count);
  }
  if (header.header_bytes > (header.part_index == 0 ? limits::kHeaderBytes : 0))
    return poison("ring slot {} has {} header bytes", index, header.header_bytes);
  if (header.reserved0 != 0 ||
      std::ranges::any_of(header.reserved, [](std::uint64_t word) { return word != 0; })) {
    return poison("ring slot {} has reserved words that are not zero", index);
  }
  Slot& slot = slots_[index];
  ++slot.flag;
  slot.state = State::kPending;
  slot.header = header;
  by_sequence_[header.sequence % by_sequence_.size()] = index;
  newest_start_ = std::max(newest_start_, header.sequence - header.part_index);
}

bool RingConsumer::is_complete() const {
  const std::uint32_t first = slot_of(next_sequence_);
  if (first == kNoSlot) return false;
  for (std::uint32_t i = 1; i < slots_[first].header.part_count; ++i) {
    if (slot_of(next_sequence_ + i) == kNoSlot) return false;
  }
  return true;
}

/// Only after is_complete(). Every number used here is a private copy that admit() checked.
Result<RingMessage> RingConsumer::take() {
  const ring_layout::SlotHeader& first = slots_[slot_of(next_sequence_)].header;
  const std::uint32_t part_count = first.part_count;
  for (std::uint32_t i = 0; i < part_count; ++i) {
    const ring_layout::SlotHeader& part = slots_[slot_of(next_sequence_ + i)].header;
    if (part.part_index != i || part.part_count != part_count) {
      poison("the ring's sequence {} is part {} of {}, expected {} of {}", part.sequence,
             part.part_index, part.part_count, i, part_count);
      return fault_;
    }
  }
  RingMessage message;
  message.header = memory_.load_message_header(slot_of(next_sequence_), first.header_bytes);
  fault_ = memory_.check();  // truncated since: the copy is zeros
  if (!fault_.ok()) return fault_;
  message.slots.reserve(part_count);
  for (std::uint32_t i = 0; i < part_count; ++i) {
    const std::uint32_t index =
        std::exchange(by_sequence_[(next_sequence_ + i) % by_sequence_.size()], kNoSlot);
    slots_[index].state = State::kHeld;
    message.slots.push_back(index);
  }
  next_sequence_ += part_count;
  held_count_ += part_count;
  return message;
}

std::span<const std::byte> RingConsumer::payload(std::uint32_t index) const {
  CHECK(index < slots_.size() && slots_[index].state == State::kHeld);
  return memory_.payload_area(index);
}

void RingConsumer::release(std::uint32_t index) {
  CHECK(index < slots_.size() && slots_[index].state == State::kHeld);
  Slot& slot = slots_[index];
  slot.state = State::kEmpty;
  --held_count_;
  // Release, pairs with the acquire in RingProducer::find_free(): our reads of the slot are over.
  memory_.store_flag(index, ++slot.flag);
  wake_waiters(memory_.freed());
}

}  // namespace airlock
