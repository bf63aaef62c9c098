#include "base/process_limits.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <string>

#include "tests/support/in_child.h"

namespace airlock {
namespace {

void limit(__rlimit_resource_t resource, rlim_t soft, rlim_t hard) {
  const struct rlimit value { soft, hard };
  ::setrlimit(resource, &value);
}

TEST(Descriptors, are_found_up_to_the_hard_limit) {
  EXPECT_TRUE(holds_in_a_child([] {
    limit(RLIMIT_NOFILE, 10, 64);
    struct rlimit after {};
    return ensure_descriptors(50).ok() && ::getrlimit(RLIMIT_NOFILE, &after) == 0 &&
           after.rlim_cur == 64;
  }));
}

TEST(Descriptors, that_are_open_are_not_free) {
  EXPECT_TRUE(holds_in_a_child([] {
    limit(RLIMIT_NOFILE, 40, 40);
    while (::dup(0) >= 0) {
    }
    ::close(7);
    ::close(9);
    return ensure_descriptors(2).ok() && !ensure_descriptors(3).ok();
  }));
}

TEST(Descriptors, that_lack_are_said_with_what_to_do) {
  EXPECT_TRUE(holds_in_a_child([] {
    for (int fd = 3; fd < 64; ++fd) ::close(fd);
    limit(RLIMIT_NOFILE, 20, 20);
    const Status status = ensure_descriptors(30);
    const auto says = [&](const char* word) {
      return status.message().find(word) != std::string::npos;
    };
    return status.code() == StatusCode::kResourceExhausted && says("30 are needed") &&
           says("limit is 20") && says("ulimit -n 33");
  }));
}

TEST(Threads, are_found) {
  EXPECT_TRUE(ensure_threads(3, "a test").ok());
  EXPECT_TRUE(ensure_threads(2, "a test", ThreadMemory::kArena).ok());
}

TEST(Threads, that_lack_are_said) {
  EXPECT_TRUE(holds_in_a_child([] {
    if (::geteuid() == 0 && ::setresuid(54321, 54321, 54321) != 0)
      return true;  // root has no limit
    limit(RLIMIT_NPROC, 1, 1);
    const Status status = ensure_threads(2, "a test");
    return status.code() == StatusCode::kResourceExhausted &&
           status.message().find("no thread for a test") != std::string::npos;
  }));
}

}  // namespace
}  // namespace airlock
