#include "shm/segment_guard.h"

#include <signal.h>
#include <sys/mman.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <mutex>
#include <utility>

#include "base/file.h"

namespace airlock {
namespace {

enum RangeState : std::uint32_t { kFree, kBusy, kLive };

struct Range {
  std::atomic<std::uint32_t> state{kFree};
  std::atomic<std::uintptr_t> begin{0};
  std::atomic<std::size_t> bytes{0};
  std::atomic<std::uint32_t> faulted{0};
};
static_assert(std::atomic<std::uintptr_t>::is_always_lock_free);

std::array<Range, SegmentGuard::kMaxRanges> ranges;
struct sigaction previous_action;

void pass_on(int signal, siginfo_t* info, void* context) {
  if ((previous_action.sa_flags & SA_SIGINFO) != 0 && previous_action.sa_sigaction != nullptr) {
    previous_action.sa_sigaction(signal, info, context);
    return;
  }
  if (previous_action.sa_handler != SIG_DFL && previous_action.sa_handler != SIG_IGN) {
    previous_action.sa_handler(signal);
    return;
  }
  // On return the access faults again and the default action ends the process, with the right core.
  struct sigaction fallback = {};
  fallback.sa_handler = SIG_DFL;
  ::sigaction(SIGBUS, &fallback, nullptr);
  if (info->si_code <= 0) ::raise(signal);  // sent by kill(): nothing will fault again
}

void on_sigbus(int signal, siginfo_t* info, void* context) {
  const int saved_errno = errno;
  const auto address = reinterpret_cast<std::uintptr_t>(info->si_addr);
  for (Range& range : ranges) {
    if (info->si_code <= 0) break;
    // Pairs with the release in create(): begin and bytes are there once the state is kLive.
    if (range.state.load(std::memory_order_acquire) != kLive) continue;
    const std::uintptr_t begin = range.begin.load(std::memory_order_relaxed);
    const std::size_t bytes = range.bytes.load(std::memory_order_relaxed);
    if (address < begin || address - begin >= bytes) continue;
    // Marked before the pages are there, so that whoever reads a zero can see why: pairs with
    // faulted().
    range.faulted.store(1, std::memory_order_release);
    void* mapped = ::mmap(reinterpret_cast<void*>(begin), bytes, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
    if (mapped == MAP_FAILED) break;
    errno = saved_errno;
    return;
  }
  pass_on(signal, info, context);
  errno = saved_errno;
}

Status install_handler() {
  static std::once_flag once;
  static int error = 0;
  std::call_once(once, [] {
    struct sigaction action = {};
    action.sa_sigaction = on_sigbus;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    ::sigemptyset(&action.sa_mask);
    // previous_action is read by the handler only; nothing guarded exists before this returns.
    if (::sigaction(SIGBUS, &action, &previous_action) != 0) error = errno;
  });
  if (error == 0) return {};
  return {StatusCode::kInternal, "cannot handle SIGBUS: {}", os_message(error)};
}

}  // namespace

Result<SegmentGuard> SegmentGuard::create(void* begin, std::size_t bytes) {
  RETURN_IF_ERROR(install_handler());
  for (std::size_t i = 0; i < ranges.size(); ++i) {
    std::uint32_t expected = kFree;
    // Acquire pairs with the release in the destructor: the last owner is done with the entry.
    if (!ranges[i].state.compare_exchange_strong(expected, kBusy, std::memory_order_acquire))
      continue;
    ranges[i].begin.store(reinterpret_cast<std::uintptr_t>(begin), std::memory_order_relaxed);
    ranges[i].bytes.store(bytes, std::memory_order_relaxed);
    ranges[i].faulted.store(0, std::memory_order_relaxed);
    ranges[i].state.store(kLive, std::memory_order_release);
    return SegmentGuard(i);
  }
  return Status(StatusCode::kResourceExhausted,
                "more than {} shared memory segments in one process", kMaxRanges);
}

SegmentGuard::SegmentGuard(SegmentGuard&& other) noexcept
    : index_(std::exchange(other.index_, std::nullopt)) {}

SegmentGuard::~SegmentGuard() {
  if (index_) ranges[*index_].state.store(kFree, std::memory_order_release);
}

bool SegmentGuard::faulted() const {
  return index_ && ranges[*index_].faulted.load(std::memory_order_acquire) != 0;
}

}  // namespace airlock
