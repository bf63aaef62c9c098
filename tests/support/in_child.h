#pragma once

#include <sys/wait.h>
#include <unistd.h>

#include <functional>

namespace airlock {

/// Whether `check` holds in a process of its own, whose limits and signals are nobody else's.
inline bool holds_in_a_child(const std::function<bool()>& check) {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(check() ? 0 : 1);
  int status = -1;
  return ::waitpid(child, &status, 0) == child && status == 0;
}

}  // namespace airlock
