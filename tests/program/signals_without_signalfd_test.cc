#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cerrno>
#include <initializer_list>

#include "runtime/program/program.h"
#include "tests/support/in_child.h"

// In place of the system's, in this program alone: as under a kernel that has none.
extern "C" int signalfd(int, const sigset_t*, int) noexcept {
  errno = ENOSYS;
  return -1;
}

namespace airlock {
namespace {

constexpr std::chrono::seconds kWatchdog{60};

/// Whether these come, in this order, and no other is told with them.
bool come(const UniqueFd& signals, std::initializer_list<int> numbers) {
  signalfd_siginfo info{};
  for (const int number : numbers) {
    ::kill(::getpid(), number);
    if (!signalled(signals.get(), Deadline::after(kWatchdog))) return false;
    if (::read(signals.get(), &info, sizeof(info)) != sizeof(info)) return false;
    if (static_cast<int>(info.ssi_signo) != number) return false;
  }
  return ::read(signals.get(), &info, sizeof(info)) < 0 && errno == EAGAIN;
}

TEST(SignalsWithoutSignalfd, are_read_all_the_same_and_do_not_kill) {
  EXPECT_TRUE(holds_in_a_child([] {
    ::signal(SIGHUP, SIG_DFL);
    const auto signals = take_signals({SIGINT, SIGTERM, SIGUSR1});
    return signals.valid() && come(signals, {SIGTERM, SIGUSR1, SIGHUP, SIGINT, SIGUSR1, SIGTERM});
  }));
}

/// Waits until so many bytes can be read.
bool await_bytes(const UniqueFd& signals, int bytes) {
  const Deadline deadline = Deadline::after(kWatchdog);
  int there = 0;
  while (::ioctl(signals.get(), FIONREAD, &there) == 0 && there < bytes && !deadline.expired())
    ::sched_yield();
  return there == bytes;
}

TEST(SignalsWithoutSignalfd, come_though_the_pipe_was_full) {
  EXPECT_TRUE(holds_in_a_child([] {
    const auto signals = take_signals({SIGTERM, SIGUSR1});
    const int capacity = ::fcntl(signals.get(), F_GETPIPE_SZ);
    signalfd_siginfo info{};
    constexpr int kSize = sizeof(info);
    for (int bytes = 0; bytes < capacity; bytes += kSize) {
      ::kill(::getpid(), SIGUSR1);
      if (!await_bytes(signals, bytes + kSize)) return false;
    }
    sigset_t pending;
    do {  // one more, which finds no room
      ::kill(::getpid(), SIGUSR1);
      ::sched_yield();
      ::sigpending(&pending);
    } while (sigismember(&pending, SIGUSR1) == 1);
    for (int bytes = 0; bytes < capacity; bytes += kSize) {
      if (::read(signals.get(), &info, sizeof(info)) != kSize) return false;
    }
    ::kill(::getpid(), SIGTERM);
    while (signalled(signals.get(), Deadline::after(kWatchdog)) &&
           ::read(signals.get(), &info, sizeof(info)) == kSize) {
      if (info.ssi_signo == SIGTERM) return true;
    }
    return false;
  }));
}

}  // namespace
}  // namespace airlock
