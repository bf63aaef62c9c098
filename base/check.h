#pragma once

namespace airlock {
/// Prints "file:line: CHECK failed: text" and aborts.
[[noreturn]] void check_failed(const char* file, int line, const char* text);
}  // namespace airlock

/// For our own bugs only: nothing that a peer, a file or a user says may reach a CHECK.
#define CHECK(condition) \
  (static_cast<bool>(condition) ? void(0) : ::airlock::check_failed(__FILE__, __LINE__, #condition))
