#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <mutex>
#include <utility>

#include "base/deadline.h"
#include "base/status.h"
#include "runtime/compute.h"

namespace airlock {

/// One at a time: the compute threads are shared by time. Of those who wait, whoever has used the
/// least goes next (start-time fair queueing), so that a session's wait does not depend on how long
/// another one's ops are, only on how long a turn is. Whoever has been passed over for much longer
/// than a round takes goes first all the same. Thread-safe.
class FairGate {
 public:
  /// What one session has used. It begins, and comes back after a pause, with what the others have
  /// come to: who was idle has saved nothing up.
  class Share {
    friend class FairGate;
    std::uint64_t used_ns_ = 0;  // guarded by the gate it is used with
  };

  /// The right to compute, until it is destroyed. Must not outlive its gate.
  class Turn {
   public:
    Turn(Turn&& other) noexcept : gate_(std::exchange(other.gate_, nullptr)) {}
    Turn& operator=(Turn&& other) noexcept {
      std::swap(gate_, other.gate_);
      return *this;
    }
    ~Turn() {
      if (gate_ != nullptr) gate_->leave();
    }

   private:
    friend class FairGate;
    explicit Turn(FairGate* gate) : gate_(gate) {}
    FairGate* gate_;
  };

  /// `clock` is what time is counted by, in nanoseconds.
  explicit FairGate(std::uint64_t (*clock)() = now_ns) : clock_(clock) {}
  FairGate(const FairGate&) = delete;
  FairGate& operator=(const FairGate&) = delete;

  /// Waits for a turn, as long as `life` lasts; a free gate is entered whatever it says. `share`
  /// outlives the turn.
  Result<Turn> enter(Share& share, const OpLife& life);
  /// Between two parts of a long op, whoever waits: lets another go first who has used no more,
  /// then waits for the next turn as enter() does. Where that fails `turn` is over.
  Status pass_on(Turn& turn, const OpLife& life);
  /// Whether pass_on() would return at once: the turn goes on.
  bool keep(const Turn& turn);
  /// How many wait now; for tests.
  std::size_t waiting() const;

 private:
  struct Waiter {
    Share* share;
    // In the middle of an op. Of equals those at its beginning go first: a newcomer waits for one
    // part of a long op, however many such ops there are.
    bool goes_on;
    std::condition_variable wake = {};
    bool has_turn = false;
    // In line since then.
    std::uint64_t since_ns = 0;
  };
  void leave();
  bool keeps();
  void count_time();
  void give_turn(Share& share);
  void give_next();
  Status wait_in_line(std::unique_lock<std::mutex>& lock, Waiter& self, const OpLife& life);
  std::deque<Waiter*>::iterator next();
  bool is_overdue(const Waiter& waiter) const;

  std::uint64_t (*const clock_)();
  mutable std::mutex mutex_;
  std::deque<Waiter*> queue_;  // they live on their threads' stacks; in order of arrival
  Share* holder_ = nullptr;
  std::uint64_t counted_ns_ = 0;  // when the holder's time was last counted
  // What those had used who were given turns: the most of it. Nobody who waits has much less. A
  // stream of newcomers, each at this level, keeps it down and would keep the others waiting; hence
  // is_overdue().
  std::uint64_t level_ns_ = 0;
};

}  // namespace airlock
