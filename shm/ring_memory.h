#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/status.h"
#include "shm/ring_layout.h"
#include "shm/segment.h"
#include "shm/wait.h"

namespace airlock {

/// Bytes of a segment for `geometry`; kInvalidInput where it is outside limits.h.
Result<std::size_t> ring_segment_bytes(const RingGeometry& geometry);
/// Writes the superblock into a new (zeroed) segment; the creator calls it once, before the peer
/// hears its name.
Status format_ring(Segment& segment, const RingGeometry& geometry, std::uint64_t epoch);

/// Wakes whoever sleeps at one of the ring's two bells in this or the other process, so that he
/// looks at what else ends his wait. Any thread; `segment` holds a ring.
void ring_bells(const Segment& segment);

/// Where things lie in one ring: every address comes from the private geometry, none from shared
/// memory. Shared words are read once each, into the caller's hands. Used by the two ends of the
/// ring only. The segment must outlive it.
class RingMemory {
 public:
  /// kProtocolError where the segment's size or superblock is not what `geometry` and `epoch`
  /// demand.
  static Result<RingMemory> attach(const Segment& segment, const RingGeometry& geometry,
                                   std::uint64_t epoch);

  /// kProtocolError where the peer truncated the segment or changed the superblock.
  Status check() const;

  std::uint32_t slot_count() const { return geometry_.slot_count; }
  std::uint64_t epoch() const { return epoch_; }

  /// Acquire: pairs with store_flag() by the other side. What that side wrote into the slot before
  /// is visible.
  std::uint32_t load_flag(std::uint32_t slot) const;
  /// Release: hands the slot over.
  void store_flag(std::uint32_t slot, std::uint32_t flag) const;
  /// One relaxed load a word: a private copy that the peer cannot change. Ordered by the flag.
  ring_layout::SlotHeader load_slot_header(std::uint32_t slot) const;
  void store_slot_header(std::uint32_t slot, const ring_layout::SlotHeader& header) const;
  /// A private copy of the first `bytes` (at most limits::kHeaderBytes) of the slot's header area;
  /// each byte is read once. Ordered by the flag, as is store_message_header().
  std::vector<std::byte> load_message_header(std::uint32_t slot, std::size_t bytes) const;
  /// `header` (at most limits::kHeaderBytes), and zeros behind it up to a multiple of 64.
  void store_message_header(std::uint32_t slot, std::span<const std::byte> header) const;
  /// The caller reads and writes it in place.
  std::span<std::byte> payload_area(std::uint32_t slot) const;

  Doorbell published() const { return published_; }  // the consumer waits on it
  Doorbell freed() const { return freed_; }          // the producer waits on it

 private:
  RingMemory() = default;
  ring_layout::SlotControl* control(std::uint32_t slot) const;
  std::span<std::byte> header_area(std::uint32_t slot) const;

  const Segment* segment_ = nullptr;
  std::byte* base_ = nullptr;
  RingGeometry geometry_;
  ring_layout::RingOffsets offsets_;
  std::uint64_t epoch_ = 0;
  std::array<std::uint64_t, 8> identity_{};  // what the superblock must say
  Doorbell published_;
  Doorbell freed_;
};

}  // namespace airlock
