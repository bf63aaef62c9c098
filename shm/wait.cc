#include "shm/wait.h"

#include <algorithm>
#include <cerrno>
#include <chrono>

#include "shm/shared_access.h"

namespace airlock {
namespace {

constexpr std::uint64_t kMaxSpinNs = 50'000;
constexpr std::uint64_t kMinSpinNs = 1'000;
/// Spinning, or a little more of it, would have caught what came within it.
constexpr std::uint64_t kShortWaitNs = 100'000;
constexpr std::uint64_t kFirstSleepNs = 20'000;
constexpr std::uint64_t kMaxSleepNs = 4'000'000;
constexpr int kMissedWakesBeforeSleep = 3;
/// A second of them.
constexpr int kSlicesBeforeIdle = 20;
constexpr int kPausesPerLook = 16;
/// From here on a spin yields: the peer may wait for this very CPU, and would get it only when the
/// spin gives up.
constexpr std::uint64_t kYieldAfterNs = 3'000;

}  // namespace

void wake_waiters(const Doorbell& doorbell) {
  // Both seq_cst, as are the waiter's store to `waiting` and load of `bell` in wait(): either the
  // waiter sees this count (and, the add being a release, all that was published before it), or
  // this load sees that it waits.
  shared::add(*doorbell.bell, 1, std::memory_order_seq_cst);
  if (shared::load(*doorbell.waiting, std::memory_order_seq_cst) == 0) return;
  // The waiter alone clears `waiting`.
  shared::futex_wake(*doorbell.bell);
}

Waiter::Waiter(WaitMode mode)
    : mode_(mode),
      max_spin_ns_(shared::can_spin() ? kMaxSpinNs : 0),
      spin_ns_(max_spin_ns_),
      sleep_ns_(kFirstSleepNs) {}

Status Waiter::wait(const Doorbell& doorbell, const std::function<bool()>& ready, Deadline deadline,
                    const WaitCheck& check) {
  if (ready()) {
    idle_slices_ = 0;
    return {};
  }
  const std::uint64_t start_ns = now_ns();
  if (const auto spun_ns = spin(doorbell, ready, deadline, start_ns)) {
    ++counters_.spins;
    // Its last look at the clock: one more would cost as much as a small message.
    learn(*spun_ns);
    return {};
  }
  sleep_ns_ = kFirstSleepNs;
  Status end;
  const auto has_ended = [&] {
    Status ended = check ? check() : Status();
    if (ended.ok()) return false;
    // Whoever ends (a peer that died, or said goodbye) may have published after our last look:
    // what `check` saw comes after all that it did.
    end = ready() ? Status() : std::move(ended);
    return true;
  };
  while (true) {
    if (deadline.expired()) {
      if (has_ended()) return end;
      return {StatusCode::kDeadlineExceeded, "nothing came in time"};
    }
    shared::store(*doorbell.waiting, 1u, std::memory_order_seq_cst);
    const std::uint32_t seen = shared::load(*doorbell.bell, std::memory_order_seq_cst);
    bool is_ready = ready();
    // Only now: who ends the wait, and rings, has not done so before this was armed.
    if (!is_ready && has_ended()) {
      shared::store(*doorbell.waiting, 0u, std::memory_order_relaxed);
      return end;
    }
    if (!is_ready) {
      park(doorbell, seen, deadline);
      is_ready = ready();
    }
    // A stale 1 costs the peer one needless wake, no more.
    shared::store(*doorbell.waiting, 0u, std::memory_order_relaxed);
    if (is_ready) break;
  }
  learn(now_ns() - start_ns);
  return {};
}

/// For how long, about, where it became ready.
std::optional<std::uint64_t> Waiter::spin(const Doorbell& doorbell,
                                          const std::function<bool()>& ready, Deadline deadline,
                                          std::uint64_t start_ns) {
  const auto budget_ns =
      std::min(spin_ns_, static_cast<std::uint64_t>(deadline.remaining().count()));
  if (budget_ns == 0) return std::nullopt;
  std::uint32_t seen = shared::load(*doorbell.bell, std::memory_order_acquire);
  std::uint64_t spent_ns = 0;
  if (ready()) return spent_ns;
  do {
    if (spent_ns >= kYieldAfterNs) shared::yield_cpu();
    for (int i = 0; i < kPausesPerLook; ++i) {
      // Acquire, pairs with the add in wake_waiters().
      const std::uint32_t now = shared::load(*doorbell.bell, std::memory_order_acquire);
      if (now != seen) {
        seen = now;
        if (ready()) return spent_ns;
        // So that a peer who only wakes us cannot keep us from the clock.
        break;
      }
      shared::pause_cpu();
    }
    spent_ns = now_ns() - start_ns;
  } while (spent_ns < budget_ns);
  return std::nullopt;
}

void Waiter::park(const Doorbell& doorbell, std::uint32_t seen, Deadline deadline) {
  const bool is_idle = idle_slices_ >= kSlicesBeforeIdle && missed_wakes_ == 0;
  const auto longest = is_idle ? kIdleWaitSlice : kWaitSlice;
  const std::uint64_t slice_ns = static_cast<std::uint64_t>(
      std::min<std::chrono::nanoseconds>(longest, deadline.remaining()).count());
  if (slice_ns == 0) return;
  ++counters_.parks;
  if (mode_ == WaitMode::kSleep) {
    shared::sleep_ns(std::min(sleep_ns_, slice_ns));
    sleep_ns_ = std::min(sleep_ns_ * 2, kMaxSleepNs);
    return;
  }
  static_assert(kIdleWaitSlice < std::chrono::seconds(1));
  const int error = shared::futex_wait(*doorbell.bell, seen, slice_ns);
  if (error != ETIMEDOUT) idle_slices_ = 0;
  if (error == 0) {
    missed_wakes_ = 0;
    return;
  }
  if (error == EAGAIN || error == EINTR) return;
  if (error == ETIMEDOUT) {
    const bool rang = shared::load(*doorbell.bell, std::memory_order_acquire) != seen;
    idle_slices_ = rang ? 0 : std::min(idle_slices_ + 1, kSlicesBeforeIdle);
    if (rang) ++missed_wakes_;
    if (!rang || missed_wakes_ < kMissedWakesBeforeSleep) return;
  }
  // No futex here (ENOSYS, EPERM), not on this memory (EFAULT: the peer truncated it), or wakes do
  // not cross over.
  mode_ = WaitMode::kSleep;
  shared::sleep_ns(std::min(kFirstSleepNs, slice_ns));
}

void Waiter::learn(std::uint64_t waited_ns) {
  idle_slices_ = 0;
  if (waited_ns <= kShortWaitNs) {
    spin_ns_ = std::min(max_spin_ns_, std::max(spin_ns_ * 2, kMinSpinNs));
  } else {
    spin_ns_ /= 2;
    if (spin_ns_ < kMinSpinNs) spin_ns_ = 0;
  }
}

}  // namespace airlock
