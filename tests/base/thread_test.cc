#include "base/thread.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <stdexcept>

#include "tests/support/sanitizer.h"

namespace airlock {
namespace {

TEST(StartThread, runs_the_root_with_signals_blocked_and_faults_open) {
  sigset_t inside;
  auto thread = start_thread("a test", [&inside] { pthread_sigmask(SIG_BLOCK, nullptr, &inside); });
  ASSERT_TRUE(thread.ok()) << thread.status().message();
  thread->join();
  EXPECT_EQ(sigismember(&inside, SIGTERM), 1);
  EXPECT_EQ(sigismember(&inside, SIGUSR1), 1);
  EXPECT_EQ(sigismember(&inside, SIGBUS), 0);
  sigset_t own;
  pthread_sigmask(SIG_BLOCK, nullptr, &own);
  EXPECT_EQ(sigismember(&own, SIGTERM), 0);
}

TEST(StartThread, without_address_space_is_a_status) {
#if AIRLOCK_ASAN || AIRLOCK_TSAN
  GTEST_SKIP() << "a sanitizer needs the address space itself";
#endif
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    const rlimit none{1, 1};
    ::setrlimit(RLIMIT_AS, &none);
    // The stacks of threads that ended are used again: they have no end here.
    for (int i = 0; i < 100; ++i) {
      auto thread = start_thread("a test", [] { ::pause(); });
      if (!thread.ok()) ::_exit(thread.status().code() == StatusCode::kResourceExhausted ? 0 : 2);
      thread->detach();
    }
    ::_exit(1);
  }
  int status = -1;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

TEST(WithoutExceptions, gives_a_status_for_what_was_thrown) {
  EXPECT_TRUE(without_exceptions([] { return Status(); }).ok());
  const Status memory = without_exceptions([]() -> Status { throw std::bad_alloc(); });
  EXPECT_EQ(memory.code(), StatusCode::kResourceExhausted);
  const Status other = without_exceptions([]() -> Status { throw std::runtime_error("odd"); });
  EXPECT_EQ(other.code(), StatusCode::kInternal);
  EXPECT_THAT(other.message(), testing::HasSubstr("odd"));
}

}  // namespace
}  // namespace airlock
