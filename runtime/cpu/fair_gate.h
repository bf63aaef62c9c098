#pragma once

#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>

#include "base/deadline.h"
#include "base/status.h"

namespace airlock {

/// One at a time, first come, first served: the compute threads are shared op by op, and no session
/// starves another. Thread-safe.
class FairGate {
 public:
  struct Leave {
    void operator()(FairGate* gate) const { gate->leave(); }
  };
  /// The right to compute, until it is destroyed. Must not outlive its gate.
  using Turn = std::unique_ptr<FairGate, Leave>;

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
