#pragma once

#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>

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
    const std::uint64_t one = 1;
    while (::write(fd_.get(), &one, sizeof(one)) < 0 && errno == EINTR) {
    }  // EAGAIN: it is set
  }
  void clear() {
    std::uint64_t count = 0;
    while (::read(fd_.get(), &count, sizeof(count)) < 0 && errno == EINTR) {
    }  // EAGAIN: it was clear
  }

 private:
  UniqueFd fd_;
};

}  // namespace airlock
