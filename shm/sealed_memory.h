#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "base/status.h"
#include "base/unique_fd.h"

namespace airlock {

/// New shared memory without a name, zeroed, which nobody can make larger or smaller
/// (F_SEAL_SHRINK, F_SEAL_GROW, F_SEAL_SEAL): what maps it never meets its end. Only promised: a
/// page is taken when it is touched, and where there is none left then, that is a SIGBUS
/// (segment_guard.h). `name` shows in /proc/PID/maps.
Result<UniqueFd> make_sealed_memory(const std::string& name, std::size_t bytes);

/// A peer's memory, before it is mapped: kProtocolError unless it has exactly `bytes`, its size is
/// sealed, and its pages are plain ones, of which there are others when one was given back.
Status check_sealed_memory(const UniqueFd& memory, std::size_t bytes);

/// Gives the memory back to the system, whoever maps it: everybody reads zeros.
void empty_memory(const UniqueFd& memory, std::size_t bytes);

}  // namespace airlock
