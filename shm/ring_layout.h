#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <type_traits>

#include "proto/limits.h"
#include "proto/ring.h"

/// The bytes of one ring in shared memory, and nothing else; drawn in docs/SHM_LAYOUT.md. Little
/// endian. A change here bumps kRingLayoutVersion, the golden test and the document in the same
/// commit.
namespace airlock::ring_layout {

static_assert(std::endian::native == std::endian::little);

inline constexpr std::uint64_t kMagic = 0x474E49524B4C5241;  // "ARLKRING"
inline constexpr std::uint32_t kRingLayoutVersion = 2;
inline constexpr std::size_t kPageBytes = 4096;
/// Two cache lines: the prefetcher fetches pairs.
inline constexpr std::size_t kSeparationBytes = 128;
/// So that a zeroed SlotHeader is never a valid one.
inline constexpr std::uint64_t kFirstSequence = 1;

/// What the creator writes once. Compared with private values by both sides, never used to size
/// anything.
struct RingIdentity {
  std::uint64_t magic;
  std::uint32_t layout_version;
  std::uint32_t slot_count;
  std::uint32_t slot_bytes;    // payload area of one slot
  std::uint32_t header_bytes;  // header area of one slot
  std::uint64_t epoch;
  std::uint64_t total_bytes;
  std::uint64_t reserved[3];  // zero
};

/// First page. Bells count events; a waiting word is 1 while its side may be asleep. Both may be
/// nonsense: they decide only how soon a side looks again, never what it finds.
struct Superblock {
  RingIdentity identity;
  std::byte gap0[512 - sizeof(RingIdentity)];
  std::uint32_t published_bell;  // producer adds 1 after each message
  std::byte gap1[kSeparationBytes - 4];
  std::uint32_t consumer_waiting;
  std::byte gap2[kSeparationBytes - 4];
  std::uint32_t freed_bell;  // consumer adds 1 after each release
  std::byte gap3[kSeparationBytes - 4];
  std::uint32_t producer_waiting;
  std::byte gap4[kPageBytes - 900];
};

/// What a published slot is. Parts of one message have consecutive sequences; part 0 carries the
/// message's header, and how many bytes of each payload are the message's follows from that.
struct SlotHeader {
  std::uint64_t epoch;
  std::uint64_t sequence;
  std::uint32_t header_bytes;  // valid bytes of the slot's header area; 0 except in part 0
  std::uint32_t part_index;
  std::uint32_t part_count;
  std::uint32_t reserved0;    // zero
  std::uint64_t reserved[4];  // zero
};

/// `flag` is the slot's own turn: even 2t belongs to the producer, odd 2t+1 to the consumer. Zero:
/// empty.
struct SlotControl {
  std::uint32_t flag;
  std::byte gap[60];
  SlotHeader header;
};

static_assert(sizeof(RingIdentity) == 64 && sizeof(SlotHeader) == 64);
static_assert(sizeof(Superblock) == kPageBytes && sizeof(SlotControl) == kSeparationBytes);
static_assert(offsetof(RingIdentity, epoch) == 24 && offsetof(RingIdentity, total_bytes) == 32);
static_assert(offsetof(Superblock, published_bell) == 512);
static_assert(offsetof(Superblock, consumer_waiting) == 640);
static_assert(offsetof(Superblock, freed_bell) == 768);
static_assert(offsetof(Superblock, producer_waiting) == 896);
static_assert(offsetof(SlotControl, header) == 64);
static_assert(offsetof(SlotHeader, part_index) == 20 && offsetof(SlotHeader, reserved) == 32);
static_assert(std::is_standard_layout_v<Superblock> && std::is_trivially_copyable_v<Superblock>);
static_assert(std::is_standard_layout_v<SlotControl> && std::is_trivially_copyable_v<SlotControl>);
static_assert(limits::kHeaderBytes % kPageBytes == 0);

/// Offsets of the four areas, computed from private geometry only.
struct RingOffsets {
  std::size_t control = 0;  // slot_count SlotControls
  std::size_t header = 0;   // slot_count areas of limits::kHeaderBytes
  std::size_t payload = 0;  // slot_count areas of slot_bytes, page-aligned
  std::size_t total = 0;
};

/// nullopt where the geometry is not possible.
constexpr std::optional<RingOffsets> ring_offsets(const RingGeometry& geometry) {
  if (!is_possible(geometry)) return std::nullopt;
  const std::size_t count = geometry.slot_count;
  RingOffsets offsets;
  offsets.control = sizeof(Superblock);
  offsets.header =
      offsets.control + (count * sizeof(SlotControl) + kPageBytes - 1) / kPageBytes * kPageBytes;
  offsets.payload = offsets.header + count * limits::kHeaderBytes;
  offsets.total = offsets.payload + count * geometry.slot_bytes;
  return offsets;
}
// Neither a size in memory nor the size of a file overflows.
static_assert(limits::kMaxSlotCount * (std::uint64_t{limits::kMaxSlotBytes} + limits::kHeaderBytes +
                                       sizeof(SlotControl)) <
              std::numeric_limits<std::ptrdiff_t>::max() / 2);

}  // namespace airlock::ring_layout
