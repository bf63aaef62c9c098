#pragma once

#include <cstddef>
#include <string_view>

#include "base/status.h"

namespace airlock {

/// Whether there is room now, for a program's start: better said then than to the first peer.
/// kResourceExhausted, with what is needed, what there is, and what to do; the last of it is
/// `without`, the option with which no segment is needed.

/// `count` new segments of `segment_bytes` each below /dev/shm: a file is made there, as a
/// segment's would be, and removed.
Status check_segment_room(std::size_t segment_bytes, std::size_t count, std::string_view without);
/// The same of sealed segments, which take memory: the machine's, and what control groups allow.
Status check_sealed_room(std::size_t segment_bytes, std::size_t count, std::string_view without);

}  // namespace airlock
