#include <algorithm>

#include "base/check.h"
#include "shm/ring.h"

namespace airlock {

Result<RingProducer> RingProducer::create(const Segment& segment, const RingGeometry& geometry,
                                          std::uint64_t epoch, WaitMode mode) {
  ASSIGN_OR_RETURN(RingMemory memory, RingMemory::attach(segment, geometry, epoch));
  return RingProducer(memory, mode);
}

/// True once `count` slots are free, or the ring is poisoned.
bool RingProducer::find_free(std::size_t count) {
  fault_ = memory_.check();
  if (!fault_.ok()) return true;
  std::size_t free_count = 0;
  for (std::uint32_t i = 0; i < slots_.size() && free_count < count; ++i) {
    Slot& slot = slots_[i];
    if (slot.state == State::kClaimed) continue;
    // Acquire, pairs with the release in RingConsumer::release(): the reader is done with the
    // slot's bytes.
    const std::uint32_t flag = memory_.load_flag(i);
    if (slot.state == State::kPublished) {
      if (flag == slot.flag) continue;
      ++slot.flag;
      slot.state = State::kFree;
    }
    if (flag != slot.flag) {
      fault_ = {StatusCode::kProtocolError, "ring slot {} has flag {}, expected {}", i, flag,
                slot.flag};
      return true;
    }
    ++free_count;
  }
  return free_count >= count;
}

Result<std::vector<std::uint32_t>> RingProducer::claim(std::size_t count, Deadline deadline,
                                                       const WaitCheck& check) {
  CHECK(count >= 1 && count <= slots_.size() / 2);
  if (!fault_.ok()) return fault_;
  if (!find_free(count)) {
    ++slot_waits_;
    const Status waited = waiter_.wait(
        memory_.freed(), [this, count] { return find_free(count); }, deadline, check);
    if (waited.code() == StatusCode::kDeadlineExceeded) {
      return Status(
          StatusCode::kBusy,
          "{} of {} ring slots did not come free in time: the peer has not read what was sent",
          count, slots_.size());
    }
    RETURN_IF_ERROR(waited);
  }
  if (!fault_.ok()) return fault_;
  std::vector<std::uint32_t> claimed;
  claimed.reserve(count);
  for (std::uint32_t i = 0; claimed.size() < count; ++i) {
    if (slots_[i].state != State::kFree) continue;
    slots_[i].state = State::kClaimed;
    claimed.push_back(i);
  }
  return claimed;
}

std::size_t RingProducer::slots_in_use() const {
  std::size_t count = 0;
  for (std::uint32_t i = 0; i < slots_.size(); ++i) {
    const Slot& slot = slots_[i];
    // A flag that moved: given back (what else it may mean, find_free() judges).
    count += slot.state == State::kClaimed ||
             (slot.state == State::kPublished && memory_.load_flag(i) == slot.flag);
  }
  return count;
}

std::span<std::byte> RingProducer::payload(std::uint32_t slot) {
  CHECK(slot < slots_.size() && slots_[slot].state == State::kClaimed);
  return memory_.payload_area(slot);
}

Status RingProducer::commit(std::span<const std::uint32_t> slots,
                            std::span<const std::byte> header) {
  CHECK(!slots.empty() && slots.size() <= slots_.size() / 2);
  CHECK(header.size() <= limits::kHeaderBytes);
  for (const std::uint32_t slot : slots) {
    CHECK(slot < slots_.size() && slots_[slot].state == State::kClaimed);
  }
  if (!fault_.ok()) return fault_;
  memory_.store_message_header(slots[0], header);
  for (std::size_t i = 0; i < slots.size(); ++i) {
    ring_layout::SlotHeader slot_header = {};
    slot_header.epoch = memory_.epoch();
    slot_header.sequence = next_sequence_ + i;
    slot_header.header_bytes = i == 0 ? static_cast<std::uint32_t>(header.size()) : 0;
    slot_header.part_index = static_cast<std::uint32_t>(i);
    slot_header.part_count = static_cast<std::uint32_t>(slots.size());
    memory_.store_slot_header(slots[i], slot_header);
  }
  fault_ = memory_.check();  // truncated while it was written: the bytes went nowhere
  if (!fault_.ok()) return fault_;
  // Last part first: whoever sees part 0 sees the whole message. Release, pairs with the acquire in
  // RingConsumer::scan(): payload, header and slot header are visible before the flag.
  for (std::size_t i = slots.size(); i-- > 0;) {
    Slot& slot = slots_[slots[i]];
    slot.state = State::kPublished;
    memory_.store_flag(slots[i], ++slot.flag);
  }
  next_sequence_ += slots.size();
  wake_waiters(memory_.published());
  return {};
}

void RingProducer::abort(std::span<const std::uint32_t> slots) {
  for (const std::uint32_t slot : slots) {
    CHECK(slot < slots_.size() && slots_[slot].state == State::kClaimed);
    slots_[slot].state = State::kFree;
  }
}

}  // namespace airlock
