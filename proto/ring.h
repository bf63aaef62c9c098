#pragma once

#include <cstdint>
#include <string_view>

#include "base/enum.h"
#include "base/status.h"

namespace airlock {

/// The shape of a session's two rings, as the server names it in the handshake.
struct RingGeometry {
  std::uint32_t slot_count = 0;
  // Payload bytes of one slot; also the path limit.
  std::uint32_t slot_bytes = 0;
  bool operator==(const RingGeometry&) const = default;
};
/// kProtocolError unless within limits.h (slot_bytes a multiple of 4096).
Status check_geometry(const RingGeometry& geometry);

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
Status check_wish(const RingWish& wish);

}  // namespace airlock
