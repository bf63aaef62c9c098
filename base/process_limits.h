#pragma once

#include <cstddef>
#include <string>

#include "base/status.h"

namespace airlock {

/// What the system lets this process have, found out before it is handed to a library that ends the
/// process where it is refused. Others may take it meanwhile: it narrows that gap and closes it
/// not.

/// Raises the soft limit of file descriptors to the hard one, and looks whether `count` more can be
/// opened. kResourceExhausted, with what is needed, what there is and what to do.
Status ensure_descriptors(std::size_t count);

/// Whether the threads take a block of memory: for it glibc gives most threads an arena of 64 MiB
/// of address space, which the library's threads then find there instead of taking it themselves.
enum class ThreadMemory { kNone, kArena };
/// Starts `count` threads that run at once and end. kResourceExhausted as start_thread() says it,
/// of `what` the threads are for.
Status ensure_threads(std::size_t count, const std::string& what,
                      ThreadMemory memory = ThreadMemory::kNone);

/// From here on a crash of this process leaves no memory behind, and no other process of the same
/// user reads it.
void forbid_core_dumps();

}  // namespace airlock
