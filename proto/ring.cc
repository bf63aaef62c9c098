#include "proto/ring.h"

#include "proto/limits.h"

namespace airlock {
namespace {

Status check_slot_count(std::uint64_t value) {
  if (value >= limits::kMinSlotCount && value <= limits::kMaxSlotCount) return {};
  return {StatusCode::kProtocolError, "slot count {}, expected {} to {}", value,
          limits::kMinSlotCount, limits::kMaxSlotCount};
}

Status check_slot_bytes(std::uint64_t value) {
  if (value >= limits::kMinSlotBytes && value <= limits::kMaxSlotBytes && value % 4096 == 0) {
    return {};
  }
  return {StatusCode::kProtocolError, "slot bytes {}, expected a multiple of 4096 from {} to {}",
          value, limits::kMinSlotBytes, limits::kMaxSlotBytes};
}

}  // namespace

Status check_geometry(const RingGeometry& geometry) {
  RETURN_IF_ERROR(check_slot_count(geometry.slot_count));
  return check_slot_bytes(geometry.slot_bytes);
}

Status check_wish(const RingWish& wish) {
  if (wish.slot_count != 0) RETURN_IF_ERROR(check_slot_count(wish.slot_count));
  return wish.slot_bytes == 0 ? Status() : check_slot_bytes(wish.slot_bytes);
}

}  // namespace airlock
