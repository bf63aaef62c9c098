#pragma once

#include "base/status.h"
#include "proto/ring.h"

namespace airlock {

/// Whether there is room now for one session's two rings in sealed memory: better said at start
/// than to the first client. kResourceExhausted, with what is free and the options that help.
Status check_ring_memory(const RingGeometry& geometry);

}  // namespace airlock
