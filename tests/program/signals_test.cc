#include <gtest/gtest.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "runtime/program/program.h"
#include "tests/support/in_child.h"

namespace airlock {
namespace {

/// The number of the signal that waits there; 0: none.
int next_signal(const UniqueFd& signals) {
  signalfd_siginfo info{};
  return ::read(signals.get(), &info, sizeof(info)) == sizeof(info)
             ? static_cast<int>(info.ssi_signo)
             : 0;
}

TEST(Signals, that_end_a_program_are_read_and_do_not_kill) {
  for (const int number : {SIGINT, SIGTERM, SIGHUP}) {
    EXPECT_TRUE(holds_in_a_child([number] {
      ::signal(number, SIG_DFL);
      const auto signals = take_signals({SIGINT, SIGTERM});
      ::raise(number);
      return next_signal(signals) == number && next_signal(signals) == 0;
    })) << number;
  }
}

TEST(Signals, that_were_asked_for_are_read_too) {
  EXPECT_TRUE(holds_in_a_child([] {
    const auto signals = take_signals({SIGTERM, SIGUSR1});
    ::raise(SIGUSR1);
    return next_signal(signals) == SIGUSR1;
  }));
}

TEST(Signals, leave_a_hangup_ignored_that_was_so_at_start) {
  EXPECT_TRUE(holds_in_a_child([] {
    ::signal(SIGHUP, SIG_IGN);  // nohup
    const auto signals = take_signals({SIGINT, SIGTERM});
    ::raise(SIGHUP);
    return signals.valid() && next_signal(signals) == 0;
  }));
}

TEST(Signals, are_not_blocked_where_nobody_could_read_them) {
  EXPECT_TRUE(holds_in_a_child([] {
    while (::dup(0) >= 0) {
    }
    const auto signals = take_signals({SIGINT, SIGTERM});
    sigset_t blocked;
    sigemptyset(&blocked);
    pthread_sigmask(SIG_BLOCK, nullptr, &blocked);
    return !signals.valid() && sigismember(&blocked, SIGTERM) == 0;
  }));
}

}  // namespace
}  // namespace airlock
