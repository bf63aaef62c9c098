#include "runtime/cpu/fair_gate.h"

#include <algorithm>
#include <chrono>
#include <tuple>

#include "base/check.h"
#include "base/thread.h"

namespace airlock {

namespace {
// How often a waiter asks whether anybody still wants its result.
constexpr std::chrono::milliseconds kLook{50};
// For each of those who are here: twice what a turn takes. Who waits longer has been passed over by
// newcomers again and again, each of whom had used less.
constexpr std::uint64_t kPatienceNs = 40'000'000;
}  // namespace

Result<FairGate::Turn> FairGate::enter(Share& share, const OpLife& life) {
  std::unique_lock lock(mutex_);
  share.used_ns_ = std::max(share.used_ns_, level_ns_);
  if (holder_ == nullptr) {
    give_turn(share);
  } else {
    Waiter self{&share, false};
    RETURN_IF_ERROR(wait_in_line(lock, self, life));
  }
  return Turn(this);
}

bool FairGate::keep(const Turn& turn) {
  const std::lock_guard lock(mutex_);
  CHECK(turn.gate_ == this);
  return keeps();
}

bool FairGate::keeps() {
  count_time();
  if (!queue_.empty()) {
    const Waiter& first = **next();
    if (is_overdue(first) || first.share->used_ns_ <= holder_->used_ns_) return false;
  }
  give_turn(*holder_);
  return true;
}

Status FairGate::pass_on(Turn& turn, const OpLife& life) {
  std::unique_lock lock(mutex_);
  CHECK(turn.gate_ == this);
  if (keeps()) return {};
  Share& share = *holder_;
  turn.gate_ = nullptr;
  give_next();
  Waiter self{&share, true};
  RETURN_IF_ERROR(wait_in_line(lock, self, life));
  turn.gate_ = this;
  return {};
}

std::size_t FairGate::waiting() const {
  const std::lock_guard lock(mutex_);
  return queue_.size();
}

void FairGate::leave() {
  const std::lock_guard lock(mutex_);
  count_time();
  holder_ = nullptr;
  give_next();
}

/// Up to now, to whoever has the turn.
void FairGate::count_time() {
  if (holder_ == nullptr) return;
  const std::uint64_t now = clock_();
  holder_->used_ns_ += now - counted_ns_;
  counted_ns_ = now;
}

void FairGate::give_turn(Share& share) {
  holder_ = &share;
  level_ns_ = std::max(level_ns_, share.used_ns_);
  counted_ns_ = clock_();
}

/// The turn passes from hand to hand: nobody can step in between.
void FairGate::give_next() {
  if (queue_.empty()) return;
  const auto chosen = next();
  Waiter& waiter = **chosen;
  queue_.erase(chosen);
  give_turn(*waiter.share);
  waiter.has_turn = true;
  waiter.wake.notify_one();
}

std::deque<FairGate::Waiter*>::iterator FairGate::next() {
  return std::ranges::min_element(queue_, {}, [this](const Waiter* waiter) {
    const bool overdue = is_overdue(*waiter);
    return std::tuple(!overdue, overdue ? waiter->since_ns : waiter->share->used_ns_,
                      waiter->goes_on);
  });
}

bool FairGate::is_overdue(const Waiter& waiter) const {
  return counted_ns_ > waiter.since_ns &&
         counted_ns_ - waiter.since_ns > kPatienceNs * (queue_.size() + 1);
}

Status FairGate::wait_in_line(std::unique_lock<std::mutex>& lock, Waiter& self,
                              const OpLife& life) {
  self.since_ns = clock_();
  queue_.push_back(&self);
  while (!self.has_turn) {
    lock.unlock();  // what is asked may take time, and locks of its own
    // Nothing may leave here by an exception: the gate knows this waiter by its address.
    Status status = without_exceptions([&life] { return life.check(); });
    lock.lock();
    if (self.has_turn) break;
    if (!status.ok()) {
      queue_.erase(std::ranges::find(queue_, &self));
      return status.with_context("waiting for the compute threads");
    }
    self.wake.wait_for(lock, std::min<std::chrono::nanoseconds>(life.deadline.remaining(), kLook));
  }
  return {};
}

}  // namespace airlock
