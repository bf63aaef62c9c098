#pragma once

#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>

#include "base/check.h"
#include "base/unique_fd.h"

namespace airlock {

/// Ends another thread's poll(): readable from set() until clear(). Thread-safe.
class WakeEvent {
 public:
  WakeEvent() : fd_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) { CHECK(fd_.get() >= 0); }

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
