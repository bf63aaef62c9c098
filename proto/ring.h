#pragma once

#include <cstdint>
#include <string_view>

#include "base/enum.h"
#include "base/status.h"
#include "proto/limits.h"

namespace airlock {

/// The shape of a session's two rings, as the server names it in the handshake.
struct RingGeometry {
  std::uint32_t slot_count = 0;
  // Payload bytes of one slot; also the path limit.
  std::uint32_t slot_bytes = 0;
  bool operator==(const RingGeometry&) const = default;
};
constexpr bool is_slot_count(std::uint64_t count) {
  return count >= limits::kMinSlotCount && count <= limits::kMaxSlotCount;
}
constexpr bool is_slot_bytes(std::uint64_t bytes) {
  return bytes >= limits::kMinSlotBytes && bytes <= limits::kMaxSlotBytes && bytes % 4096 == 0;
}
/// Whether a ring can have this shape: within limits.h, slot_bytes a multiple of 4096.
constexpr bool is_possible(const RingGeometry& geometry) {
  return is_slot_count(geometry.slot_count) && is_slot_bytes(geometry.slot_bytes);
}
/// kProtocolError, naming the number that is not, unless it is possible.
inline Status check_geometry(const RingGeometry& geometry) {
  if (!is_slot_count(geometry.slot_count)) {
    return {StatusCode::kProtocolError, "slot count {}, expected {} to {}", geometry.slot_count,
            limits::kMinSlotCount, limits::kMaxSlotCount};
  }
  if (is_slot_bytes(geometry.slot_bytes)) return {};
  return {StatusCode::kProtocolError, "slot bytes {}, expected a multiple of 4096 from {} to {}",
          geometry.slot_bytes, limits::kMinSlotBytes, limits::kMaxSlotBytes};
}

/// Whether `name` is "airlock-" and 1 to 80 of [0-9a-z-], as the names of segments below /dev/shm
/// are; so it leads nowhere else. Names may come from the peer.
constexpr bool is_segment_name(std::string_view name) {
  constexpr std::string_view kPrefix = "airlock-";
  return name.starts_with(kPrefix) && name.size() > kPrefix.size() &&
         name.size() <= limits::kMaxSegmentNameBytes &&
         name.find_first_not_of("0123456789abcdefghijklmnopqrstuvwxyz-") == name.npos;
}

/// kAuto is on for ipc:// and off for tcp://; it is decided before it crosses.
enum class RingChoice : std::uint8_t { kOff = 0, kOn = 1, kAuto = 2 };

constexpr std::string_view name_of(RingChoice choice) {
  switch (choice) {
    case RingChoice::kOff:
      return "off";
    case RingChoice::kOn:
      return "on";
    case RingChoice::kAuto:
      return "auto";
  }
  return {};
}

/// What one side wants of a session's rings: from the command line to the handshake.
struct RingWish {
  RingChoice choice = RingChoice::kAuto;
  // 0: as the server chooses; else no other value will do.
  std::uint32_t slot_count = 0;
  std::uint32_t slot_bytes = 0;
  bool operator==(const RingWish&) const = default;

  /// Whether a ring of this geometry is what was demanded.
  bool accepts(const RingGeometry& geometry) const {
    return (slot_count == 0 || slot_count == geometry.slot_count) &&
           (slot_bytes == 0 || slot_bytes == geometry.slot_bytes);
  }
};
/// kProtocolError unless each number is 0 or within limits.h.
inline Status check_wish(const RingWish& wish) {
  RingGeometry geometry{limits::kDefaultSlotCount, limits::kDefaultSlotBytes};
  if (wish.slot_count != 0) geometry.slot_count = wish.slot_count;
  if (wish.slot_bytes != 0) geometry.slot_bytes = wish.slot_bytes;
  return check_geometry(geometry);
}

}  // namespace airlock
