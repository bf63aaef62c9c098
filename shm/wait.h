#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>

#include "base/deadline.h"
#include "base/status.h"

namespace airlock {

/// Asked in each slice of a wait, at least every kWaitSlice, or kIdleWaitSlice where nothing has
/// come for a second: not ok ends the wait with that status (the peer died, shutdown). Who makes it
/// so may ring the bell, and it is asked at once. Empty: never.
using WaitCheck = std::function<Status()>;

inline constexpr std::chrono::milliseconds kWaitSlice{50};
inline constexpr std::chrono::milliseconds kIdleWaitSlice{500};

/// Two words in shared memory that one side counts up and the other waits on. The peer can write
/// anything there; that delays a wait by at most one slice.
struct Doorbell {
  std::uint32_t* bell = nullptr;     // counts wakes
  std::uint32_t* waiting = nullptr;  // 1 while the waiter may be asleep
};

/// Counts the bell up and wakes who sleeps on it: call it after what the other side waits for was
/// published. A system call only if the other side may sleep.
void wake_waiters(const Doorbell& doorbell);

/// What the waits of one end came to; only grows.
struct WaitCounters {
  // Waits that ended while spinning.
  std::uint64_t spins = 0;
  // Times a wait went to sleep.
  std::uint64_t parks = 0;
  // Messages whose places were not free at once.
  std::uint64_t slot_waits = 0;
};

enum class WaitMode {
  // Sleep in the kernel until woken; falls back to kSleep where wakes do not arrive (Gramine).
  kFutex,
  // Look again after sleeps of 20 us, doubling up to 4 ms.
  kSleep,
};

/// Waits for a doorbell: spins briefly, as long as spinning paid off lately (0 to 50 us) and
/// yielding after the first few, then parks. One thread.
class Waiter {
 public:
  explicit Waiter(WaitMode mode = WaitMode::kFutex);

  /// ok once `ready` (called now, after each wake and after each slice) returns true;
  /// kDeadlineExceeded; or what `check` says. `ready` is asked first, and once more where
  /// `check` ends it: what the peer published before it died is still found.
  Status wait(const Doorbell& doorbell, const std::function<bool()>& ready, Deadline deadline,
              const WaitCheck& check);

  /// Without slot_waits.
  const WaitCounters& counters() const { return counters_; }

 private:
  std::optional<std::uint64_t> spin(const Doorbell& doorbell, const std::function<bool()>& ready,
                                    Deadline deadline, std::uint64_t start_ns);
  void park(const Doorbell& doorbell, std::uint32_t seen, Deadline deadline);
  void learn(std::uint64_t waited_ns);

  WaitMode mode_;
  std::uint64_t max_spin_ns_;
  std::uint64_t spin_ns_;   // what the next wait spins at most
  std::uint64_t sleep_ns_;  // next rung of the ladder
  int missed_wakes_ = 0;    // slices in a row in which the bell rang and no wake came
  int idle_slices_ = 0;     // in a row, of this wait and those before it, in which it did not ring
  WaitCounters counters_;
};

}  // namespace airlock
