#pragma once

#include <thread>

#include "base/wake_event.h"
#include "runtime/rpc/peer_life.h"

namespace airlock::xfer {

/// A thread that sleeps until the other process ends (its end of the control socket closes) or a
/// signal comes, and ends a PeerLife with the reason. The channels ask that life in each wait.
class LifeWatch {
 public:
  /// `signal_fd` is a signalfd, or -1. Neither descriptor is read for anything else but signals;
  /// both outlive this. Where it cannot watch, the life is over from the start.
  LifeWatch(int control_fd, int signal_fd);
  ~LifeWatch();
  LifeWatch(const LifeWatch&) = delete;
  LifeWatch& operator=(const LifeWatch&) = delete;

  const PeerLife& life() const { return life_; }

 private:
  void watch(int control_fd, int signal_fd);

  PeerLife life_;
  WakeEvent stop_;
  std::thread thread_;
};

}  // namespace airlock::xfer
