#pragma once

#include <condition_variable>
#include <deque>
#include <mutex>
#include <utility>

#include "base/deadline.h"
#include "base/status.h"

namespace airlock {

/// One at a time, first come, first served: the compute threads are shared op by op, and no session
/// starves another. Thread-safe.
class FairGate {
 public:
  /// The right to compute, until it is destroyed. Must not outlive its gate.
  class Turn {
   public:
    Turn(Turn&& other) noexcept : gate_(std::exchange(other.gate_, nullptr)) {}
    Turn& operator=(Turn&&) = delete;
    ~Turn() {
      if (gate_ != nullptr) gate_->leave();
    }

   private:
    friend class FairGate;
    explicit Turn(FairGate* gate) : gate_(gate) {}
    FairGate* gate_;
  };

  FairGate() = default;
  FairGate(const FairGate&) = delete;
  FairGate& operator=(const FairGate&) = delete;

  /// Waits behind everyone who came before. kDeadlineExceeded where the turn does not come in time;
  /// a free gate is entered whatever the deadline says.
  Result<Turn> enter(Deadline deadline);
  /// How many wait now; for tests.
  std::size_t waiting() const;

 private:
  struct Waiter {
    std::condition_variable wake;
    bool has_turn = false;
  };
  void leave();

  mutable std::mutex mutex_;
  std::deque<Waiter*> queue_;  // they live on their threads' stacks, in enter()
  bool taken_ = false;
};

}  // namespace airlock
