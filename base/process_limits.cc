#include "base/process_limits.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#include <cstdlib>
#include <latch>
#include <thread>
#include <vector>

#include "base/thread.h"

namespace airlock {

namespace {

constexpr std::size_t kPageBytes = 4096;

/// Whether more than RLIMIT_MEMLOCK can be locked: tried with memory that is never there, as a
/// capability counts in the first user namespace alone and its bit does not tell.
bool may_lock_everything() {
  struct rlimit limit {};
  if (::getrlimit(RLIMIT_MEMLOCK, &limit) != 0) return false;
  if (limit.rlim_cur == RLIM_INFINITY) return true;
  const std::size_t beyond = limit.rlim_cur / kPageBytes * kPageBytes + kPageBytes;
  void* const place =
      ::mmap(nullptr, beyond, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (place == MAP_FAILED) return false;
  const bool may = ::mlock2(place, beyond, MLOCK_ONFAULT) == 0;
  ::munmap(place, beyond);
  return may;
}

}  // namespace

Status ensure_descriptors(std::size_t count) {
  struct rlimit limit {};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return {};
  if (limit.rlim_cur < limit.rlim_max) {
    const struct rlimit raised { limit.rlim_max, limit.rlim_max };
    if (::setrlimit(RLIMIT_NOFILE, &raised) == 0) limit = raised;
  }
  // The limit is one of their numbers: those that were inherited count.
  std::size_t free = 0;
  rlim_t number = 0;
  for (; number < limit.rlim_cur && free < count; ++number) {
    if (::fcntl(static_cast<int>(number), F_GETFD) < 0) ++free;
  }
  if (free == count) return {};
  const std::size_t open = number - free;
  return {StatusCode::kResourceExhausted,
          "too few file descriptors: {} are needed beside the {} that are open, and the limit is "
          "{}; raise it (ulimit -n {})",
          count,
          open,
          number,
          count + open};
}

Status ensure_threads(std::size_t count, const std::string& what, ThreadMemory memory) {
  std::latch all_run(1);
  std::vector<std::thread> threads;
  threads.reserve(count);
  Status status;
  while (status.ok() && threads.size() < count) {
    auto started = start_thread(what, [&all_run, memory] {
      // Volatile, or the compiler would leave out both calls.
      void* volatile block = memory == ThreadMemory::kArena ? std::malloc(1) : nullptr;
      std::free(block);
      all_run.wait();
    });
    if (started.ok())
      threads.push_back(std::move(started).value());
    else
      status = started.status();
  }
  all_run.count_down();
  for (std::thread& thread : threads) thread.join();
  return status;
}

void forbid_core_dumps() {
  const rlimit none{0, 0};
  (void)::setrlimit(RLIMIT_CORE, &none);
  // A core_pattern that is a pipe asks for no limit.
  (void)::prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
}

bool is_locked_memory_limited() { return !may_lock_everything(); }

std::string how_to_lock_memory() {
  struct rlimit limit {};
  const bool is_finite =
      ::getrlimit(RLIMIT_MEMLOCK, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY;
  return fmt::format(
      "{}lift it with ulimit -l unlimited, LimitMEMLOCK=infinity of systemd, --ulimit memlock=-1 "
      "of podman and docker, or the capability IPC_LOCK, as in Kubernetes",
      is_finite ? fmt::format("it is {} KiB: ", limit.rlim_cur / 1024) : std::string());
}

bool keep_out_of_swap() {
  return may_lock_everything() && ::mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) == 0;
}

}  // namespace airlock
