#pragma once

#include <cstdint>
#include <memory>

#include "proto/ring.h"
#include "runtime/channel/carrier.h"
#include "shm/segment.h"

namespace airlock {

struct RingCarrierOptions {
  /// Shared, because both ends of a channel inside one process may use one mapping (tests under
  /// TSan).
  std::shared_ptr<Segment> out_segment;
  std::shared_ptr<Segment> in_segment;
  /// Of both rings; the session's PathPolicy has the same limits.
  RingGeometry geometry;
  std::uint64_t epoch = 0;
  /// Whether the peer is gone; asked in each slice of a wait.
  WaitCheck check;
};

/// Carries headers and tensors by two rings in shared memory, one a direction: one slot a tensor,
/// one for the header of a message without any, or with all that ride behind it. All of a message
/// is there at once. Where leases hold half of the slots, tensors are copied out, so that the peer
/// always finds room. kProtocolError where a segment is not such a ring.
Result<std::unique_ptr<Carrier>> make_ring_carrier(RingCarrierOptions options);

}  // namespace airlock
