#include "runtime/cpu/fair_gate.h"

#include <algorithm>
#include <chrono>

namespace airlock {

Result<FairGate::Turn> FairGate::enter(Deadline deadline) {
  std::unique_lock lock(mutex_);
  if (!taken_) {
    taken_ = true;
    return Turn(this);
  }
  Waiter self;
  queue_.push_back(&self);
  while (!self.has_turn && !deadline.expired()) {
    // A slice keeps the arithmetic of a far deadline out of the condition variable.
    self.wake.wait_for(
        lock, std::min<std::chrono::nanoseconds>(deadline.remaining(), std::chrono::seconds(1)));
  }
  if (self.has_turn) return Turn(this);
  queue_.erase(std::find(queue_.begin(), queue_.end(), &self));
  return Status(StatusCode::kDeadlineExceeded,
                "the op's deadline passed while it waited for the compute threads");
}

std::size_t FairGate::waiting() const {
  const std::lock_guard lock(mutex_);
  return queue_.size();
}

void FairGate::leave() {
  const std::lock_guard lock(mutex_);
  if (queue_.empty()) {
    taken_ = false;
    return;
  }
  Waiter* next = queue_.front();
  queue_.pop_front();
  next->has_turn = true;  // taken_ stays: the turn passes on, nobody can step in between
  next->wake.notify_one();
}

}  // namespace airlock
