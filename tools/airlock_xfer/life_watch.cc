#include "tools/airlock_xfer/life_watch.h"

#include <poll.h>
#include <sys/signalfd.h>

#include <cerrno>
#include <csignal>
#include <cstring>
#include <utility>

namespace airlock::xfer {

LifeWatch::LifeWatch(int control_fd, int signal_fd) {
  if (Status status = stop_.check(); !status.ok()) {
    life_.end(std::move(status));  // nothing could end the thread
    return;
  }
  thread_ = std::thread([this, control_fd, signal_fd] { watch(control_fd, signal_fd); });
}

LifeWatch::~LifeWatch() {
  stop_.set();
  if (thread_.joinable()) thread_.join();
}

void LifeWatch::watch(int control_fd, int signal_fd) {
  for (;;) {
    // A negative descriptor is passed over. POLLRDHUP alone: what can be read there is the main
    // thread's.
    pollfd waiting[] = {
        {stop_.fd(), POLLIN, 0}, {signal_fd, POLLIN, 0}, {control_fd, POLLRDHUP, 0}};
    if (::poll(waiting, 3, -1) < 0 && errno != EINTR) {
      life_.end({StatusCode::kInternal, "poll: {}", std::strerror(errno)});
      return;
    }
    if (waiting[0].revents != 0) return;
    signalfd_siginfo info{};
    if (waiting[1].revents != 0 && ::read(signal_fd, &info, sizeof(info)) == sizeof(info)) {
      life_.end({StatusCode::kCancelled, "stopped by signal {} ({})", info.ssi_signo,
                 ::strsignal(static_cast<int>(info.ssi_signo))});
      return;
    }
    if (waiting[2].revents != 0) {
      life_.end({StatusCode::kUnavailable, "the other process ended"});
      return;
    }
  }
}

}  // namespace airlock::xfer
