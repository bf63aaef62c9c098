#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <mutex>
#include <utility>

#include "base/status.h"
#include "runtime/channel/channel.h"

namespace airlock {

/// Signs of life leave each side this often: well within the 250 ms that docs/INTERFACE.md
/// promises.
inline constexpr std::chrono::milliseconds kSignInterval{200};

/// How long a peer has been silent, as its watcher saw it. A watcher that was itself stopped
/// (SIGSTOP, a suspended machine) does not take its own absence for the peer's. One thread.
class SilenceMeter {
 public:
  void heard() { silent_ns_ = 0; }
  void tick(std::uint64_t now) {
    if (last_ns_ != 0) silent_ns_ += std::min(now - last_ns_, kLongestStepNs);
    last_ns_ = now;
  }
  std::uint64_t silent_ns() const { return silent_ns_; }

 private:
  static constexpr std::uint64_t kLongestStepNs = 500'000'000;
  std::uint64_t last_ns_ = 0;
  std::uint64_t silent_ns_ = 0;
};

/// A PeerWatch that ends once, with the first reason given. Thread-safe.
class PeerLife : public PeerWatch {
 public:
  Status check() const override {
    if (!ended_.load(std::memory_order_acquire)) return {};
    const std::lock_guard lock(mutex_);
    return reason_;
  }
  void end(Status reason) {
    const std::lock_guard lock(mutex_);
    if (ended_.load(std::memory_order_relaxed)) return;
    reason_ = std::move(reason);
    ended_.store(true, std::memory_order_release);  // pairs with the load in check()
    if (waker_) waker_();
  }
  /// Called at the end, by whoever ends it: wakes those who wait, so that they ask check() at once.
  /// Empty: nobody; from then on the old one is not called any more.
  void set_waker(std::function<void()> waker) {
    const std::lock_guard lock(mutex_);
    waker_ = std::move(waker);
  }

 private:
  mutable std::mutex mutex_;
  Status reason_;
  std::function<void()> waker_;
  std::atomic<bool> ended_{false};
};

}  // namespace airlock
