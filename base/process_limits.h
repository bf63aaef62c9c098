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

/// Whether this process may lock some memory only: RLIMIT_MEMLOCK is finite, and it has no right to
/// pass it.
bool is_locked_memory_limited();
/// How a user lifts the limit of locked memory, for a message that says who wants more than it.
std::string how_to_lock_memory();

/// Keeps what this process has touched, and will touch, out of swap, its shared and mapped memory
/// included; a page that nobody touches is not taken. True where RLIMIT_MEMLOCK is unlimited or the
/// process may pass it (CAP_IPC_LOCK). Elsewhere it does nothing and is false: under a finite limit
/// later mappings would fail.
///
/// What is locked cannot be reclaimed either: the process keeps all that it ever touched, up to its
/// memory limit, and MADV_DONTNEED fails on it (EINVAL). Who maps a large file to read it once
/// munlock()s the mapping.
[[nodiscard]] bool keep_out_of_swap();

}  // namespace airlock
