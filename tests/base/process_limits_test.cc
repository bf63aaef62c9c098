#include "base/process_limits.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <string>

#include "tests/support/in_child.h"
#include "tests/support/sanitizer.h"

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

/// Of /proc/self/status, in KiB; 0 where it has none.
std::size_t status_kib(const std::string& key) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with(key + ":")) return std::stoul(line.substr(key.size() + 1));
  }
  return 0;
}

#if AIRLOCK_ASAN || AIRLOCK_TSAN
constexpr bool kSanitized = true;
#else
constexpr bool kSanitized = false;
#endif

constexpr std::size_t kManyBytes = std::size_t{64} << 20;

class Swap : public testing::Test {
 protected:
  void SetUp() override {
    // Their mlockall() does nothing.
    if (kSanitized) GTEST_SKIP() << "a sanitizer locks no memory";
  }
};

TEST_F(Swap, is_kept_from_all_memory_where_that_is_allowed) {
  if (!holds_in_a_child([] { return keep_out_of_swap(); }))
    GTEST_SKIP() << "locked memory is limited here (ulimit -l), and there is no CAP_IPC_LOCK";
  EXPECT_TRUE(holds_in_a_child([] {
    if (status_kib("VmLck") != 0 || !keep_out_of_swap()) return false;
    const std::size_t before = status_kib("VmLck");
    const void* const later =
        ::mmap(nullptr, kManyBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return before > 0 && later != MAP_FAILED && status_kib("VmLck") >= before + kManyBytes / 1024;
  }));
}

// What a pool has promised and nobody touched stays untaken.
TEST_F(Swap, is_kept_from_memory_once_it_is_touched_and_no_earlier) {
  if (!holds_in_a_child([] { return keep_out_of_swap(); }))
    GTEST_SKIP() << "locked memory is limited here (ulimit -l), and there is no CAP_IPC_LOCK";
  EXPECT_TRUE(holds_in_a_child([] {
    const int memory = ::memfd_create("lease", MFD_CLOEXEC);
    if (::ftruncate(memory, static_cast<off_t>(kManyBytes)) != 0 || !keep_out_of_swap())
      return false;
    void* const shared = ::mmap(nullptr, kManyBytes, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
    void* const own =
        ::mmap(nullptr, kManyBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED || own == MAP_FAILED) return false;
    struct stat taken {};
    if (::fstat(memory, &taken) != 0 || taken.st_blocks != 0) return false;
    *static_cast<volatile char*>(shared) = 1;
    return ::fstat(memory, &taken) == 0 && taken.st_blocks > 0 &&
           static_cast<std::size_t>(taken.st_blocks) * 512 < kManyBytes &&
           status_kib("VmRSS") < kManyBytes / 1024;
  }));
}

TEST_F(Swap, is_left_alone_under_a_limit) {
  EXPECT_TRUE(holds_in_a_child([] {
    limit(RLIMIT_MEMLOCK, 1 << 20, 1 << 20);
    // With its user the process loses the right to pass the limit.
    if (::geteuid() == 0 && ::setresuid(54321, 54321, 54321) != 0) return false;
    if (keep_out_of_swap() || status_kib("VmLck") != 0) return false;
    return ::mmap(nullptr, kManyBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
                  0) != MAP_FAILED;
  }));
}

TEST(LockedMemory, limit_is_said_with_what_lifts_it) {
  EXPECT_TRUE(holds_in_a_child([] {
    limit(RLIMIT_MEMLOCK, 1 << 20, 1 << 20);
    const std::string text = how_to_lock_memory();
    const auto says = [&](const char* word) { return text.find(word) != std::string::npos; };
    return says("it is 1024 KiB") && says("ulimit -l unlimited") && says("LimitMEMLOCK=") &&
           says("--ulimit memlock=-1") && says("IPC_LOCK");
  }));
}

TEST_F(Swap, is_kept_from_by_an_unlimited_limit_without_any_right) {
  EXPECT_TRUE(holds_in_a_child([] {
    limit(RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY);
    struct rlimit now {};
    if (::getrlimit(RLIMIT_MEMLOCK, &now) != 0 || now.rlim_cur != RLIM_INFINITY)
      return true;  // not to be had here
    if (::geteuid() == 0 && ::setresuid(54321, 54321, 54321) != 0) return false;
    return keep_out_of_swap() && status_kib("VmLck") > 0;
  }));
}

}  // namespace
}  // namespace airlock
