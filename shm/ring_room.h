#pragma once

#include <string_view>

#include "base/status.h"
#include "proto/ring.h"

namespace airlock {

/// Whether there is room now for one session's two rings in sealed memory: better said at start
/// than to the first client. kResourceExhausted, with what is free and the options that help;
/// the last of them is `without`, with which no ring is needed.
Status check_ring_memory(const RingGeometry& geometry, std::string_view without);

}  // namespace airlock
