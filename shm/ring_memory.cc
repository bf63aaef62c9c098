#include "shm/ring_memory.h"

#include <bit>

#include "base/check.h"
#include "shm/shared_access.h"

namespace airlock {
namespace {

using ring_layout::RingIdentity;
using ring_layout::SlotControl;
using ring_layout::SlotHeader;
using ring_layout::Superblock;
using Words = std::array<std::uint64_t, 8>;
static_assert(sizeof(Words) == sizeof(RingIdentity) && sizeof(Words) == sizeof(SlotHeader));

/// The message's header, and zeros up to a multiple of this: nothing uninitialised is sent.
constexpr std::size_t kHeaderPadBytes = 64;

Words load_words(const void* from) {
  const auto* words = static_cast<const std::uint64_t*>(from);
  Words copy;
  for (std::size_t i = 0; i < copy.size(); ++i) {
    copy[i] = shared::load(words[i], std::memory_order_relaxed);
  }
  return copy;
}

void store_words(void* to, const Words& copy) {
  auto* words = static_cast<std::uint64_t*>(to);
  for (std::size_t i = 0; i < copy.size(); ++i) {
    shared::store(words[i], copy[i], std::memory_order_relaxed);
  }
}

Words identity_words(const RingGeometry& geometry, std::size_t total_bytes, std::uint64_t epoch) {
  return std::bit_cast<Words>(RingIdentity{.magic = ring_layout::kMagic,
                                           .layout_version = ring_layout::kRingLayoutVersion,
                                           .slot_count = geometry.slot_count,
                                           .slot_bytes = geometry.slot_bytes,
                                           .header_bytes = limits::kHeaderBytes,
                                           .epoch = epoch,
                                           .total_bytes = total_bytes,
                                           .reserved = {}});
}

}  // namespace

Result<std::size_t> ring_segment_bytes(const RingGeometry& geometry) {
  const auto offsets = ring_layout::ring_offsets(geometry);
  if (!offsets) return Status(StatusCode::kInvalidInput, check_geometry(geometry).message());
  return offsets->total;
}

Status format_ring(Segment& segment, const RingGeometry& geometry, std::uint64_t epoch) {
  ASSIGN_OR_RETURN(const std::size_t total_bytes, ring_segment_bytes(geometry));
  if (segment.bytes().size() != total_bytes)
    return {StatusCode::kInternal, "segment of another size than the ring's"};
  store_words(segment.bytes().data(), identity_words(geometry, total_bytes, epoch));
  return {};
}

void ring_bells(const Segment& segment) {
  auto* const superblock = reinterpret_cast<ring_layout::Superblock*>(segment.bytes().data());
  // Whatever the waiting words say: the peer may have written there.
  for (std::uint32_t* const bell : {&superblock->published_bell, &superblock->freed_bell}) {
    shared::add(*bell, 1, std::memory_order_seq_cst);
    shared::futex_wake(*bell);
  }
}

Result<RingMemory> RingMemory::attach(const Segment& segment, const RingGeometry& geometry,
                                      std::uint64_t epoch) {
  const auto offsets = ring_layout::ring_offsets(geometry);
  if (!offsets || segment.bytes().size() != offsets->total) {
    return Status(StatusCode::kProtocolError, "ring geometry and segment size do not agree");
  }
  RingMemory memory;
  memory.segment_ = &segment;
  memory.base_ = segment.bytes().data();
  memory.geometry_ = geometry;
  memory.offsets_ = *offsets;
  memory.epoch_ = epoch;
  memory.identity_ = identity_words(geometry, offsets->total, epoch);
  auto* superblock = reinterpret_cast<Superblock*>(memory.base_);
  memory.published_ = {&superblock->published_bell, &superblock->consumer_waiting};
  memory.freed_ = {&superblock->freed_bell, &superblock->producer_waiting};
  RETURN_IF_ERROR(memory.check());
  return memory;
}

Status RingMemory::check() const {
  const bool same = load_words(base_) == identity_;
  if (segment_->faulted())
    return {StatusCode::kProtocolError, "the peer truncated the ring's segment"};
  if (!same) return {StatusCode::kProtocolError, "the ring's superblock is not what was agreed"};
  return {};
}

SlotControl* RingMemory::control(std::uint32_t slot) const {
  return reinterpret_cast<SlotControl*>(base_ + offsets_.control) + slot;
}

std::uint32_t RingMemory::load_flag(std::uint32_t slot) const {
  return shared::load(control(slot)->flag, std::memory_order_acquire);
}

void RingMemory::store_flag(std::uint32_t slot, std::uint32_t flag) const {
  shared::store(control(slot)->flag, flag, std::memory_order_release);
}

SlotHeader RingMemory::load_slot_header(std::uint32_t slot) const {
  return std::bit_cast<SlotHeader>(load_words(&control(slot)->header));
}

void RingMemory::store_slot_header(std::uint32_t slot, const SlotHeader& header) const {
  store_words(&control(slot)->header, std::bit_cast<Words>(header));
}

std::span<std::byte> RingMemory::header_area(std::uint32_t slot) const {
  return {base_ + offsets_.header + slot * limits::kHeaderBytes, limits::kHeaderBytes};
}

std::vector<std::byte> RingMemory::load_message_header(std::uint32_t slot,
                                                       std::size_t bytes) const {
  return shared::copy_out(header_area(slot).first(bytes));
}

void RingMemory::store_message_header(std::uint32_t slot, std::span<const std::byte> header) const {
  const std::span<std::byte> area = header_area(slot);
  const std::size_t padded_bytes =
      (header.size() + kHeaderPadBytes - 1) / kHeaderPadBytes * kHeaderPadBytes;
  shared::copy_in(area, header);
  shared::fill_zero(area.subspan(header.size(), padded_bytes - header.size()));
}

std::span<std::byte> RingMemory::payload_area(std::uint32_t slot) const {
  return {base_ + offsets_.payload + std::size_t{slot} * geometry_.slot_bytes,
          geometry_.slot_bytes};
}

}  // namespace airlock
