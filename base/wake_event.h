#pragma once

#include <sys/eventfd.h>

#include <cerrno>

#include "base/status.h"
#include "base/unique_fd.h"

namespace airlock {

/// Ends another thread's poll(): readable from set() until clear(). Thread-safe. Whoever makes one
/// asks check() before it relies on it.
class WakeEvent {
 public:
  WakeEvent() : fd_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}

  /// kResourceExhausted: the process has no descriptor left, and nothing will be woken.
  Status check() const {
    if (fd_.valid()) return {};
    return {StatusCode::kResourceExhausted,
            "no file descriptor is left for an event: raise the limit (ulimit -n)"};
  }
  int fd() const { return fd_.get(); }
  void set() {
    while (::eventfd_write(fd_.get(), 1) < 0 && errno == EINTR) {
    }  // EAGAIN: it is set
  }
  void clear() {
    eventfd_t count = 0;
    while (::eventfd_read(fd_.get(), &count) < 0 && errno == EINTR) {
    }  // EAGAIN: it was clear
  }

 private:
  UniqueFd fd_;
};

}  // namespace airlock
