#include "runtime/cpu/sliced_run.h"

#include <algorithm>
#include <atomic>

#include "base/check.h"
#include "base/deadline.h"
#include "base/thread.h"
#include "runtime/cpu/onednn.h"

namespace airlock {

namespace {
constexpr auto kSliceNs = static_cast<std::uint64_t>(std::chrono::nanoseconds(kSlice).count());
}  // namespace

std::size_t SlicedRun::worker_count(std::size_t count, std::size_t most_workers) const {
  return std::min({count, pool_.thread_count(), most_workers});
}

/// The first one, or after a slice the next.
Status SlicedRun::take_turn() {
  const std::uint64_t asked_ns = now_ns();
  if (!turn_) {
    ASSIGN_OR_RETURN(turn_, gate_.enter(share_, life_));
  } else {
    RETURN_IF_ERROR(life_.check());
    RETURN_IF_ERROR(gate_.pass_on(*turn_, life_));
  }
  const std::uint64_t now = now_ns();
  waited_ns_ += now - asked_ns;
  slice_end_ns_ = now + kSliceNs;
  return {};
}

Status SlicedRun::run(std::size_t count, const std::function<void(std::size_t, std::size_t)>& body,
                      std::size_t most_workers) {
  if (!turn_) RETURN_IF_ERROR(take_turn());
  const std::size_t workers = worker_count(count, most_workers);
  // Relaxed, all three: the pool orders what the pieces wrote before its loop returns.
  std::atomic<std::size_t> next{0};
  std::atomic<std::size_t> done{0};
  std::atomic<bool> stop{false};
  const auto work = [&](std::size_t worker, std::size_t) {
    if (worker >= workers) return;
    const onednn::OneThread alone;
    while (!stop.load(std::memory_order_relaxed)) {
      const std::size_t piece = next.fetch_add(1, std::memory_order_relaxed);
      if (piece >= count) return;
      try {
        body(worker, piece);
      } catch (...) {
        stop.store(true, std::memory_order_relaxed);
        throw;
      }
      done.fetch_add(1, std::memory_order_relaxed);
      // The caller's own thread watches the clock, while anything is left to begin. The others stop
      // only where that is of use.
      if (worker == 0 && next.load(std::memory_order_relaxed) < count &&
          now_ns() >= slice_end_ns_) {
        if (without_exceptions([this] { return life_.check(); }).ok() && gate_.keep(*turn_)) {
          slice_end_ns_ = now_ns() + kSliceNs;
        } else {
          stop.store(true, std::memory_order_relaxed);
        }
      }
    }
  };
  for (;;) {
    if (workers == 1) {
      work(0, 1);
    } else {
      pool_.parallel_for(pool_.thread_count(), work);
    }
    if (done.load(std::memory_order_relaxed) == count) return {};
    stop.store(false, std::memory_order_relaxed);
    RETURN_IF_ERROR(take_turn());
  }
}

}  // namespace airlock
