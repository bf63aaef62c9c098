#pragma once

#include <sys/types.h>

#include <array>
#include <memory>
#include <optional>

#include "runtime/rpc/session_channel.h"
#include "tools/airlock_xfer/control.h"
#include "tools/airlock_xfer/cpu_pin.h"
#include "tools/airlock_xfer/life_watch.h"
#include "tools/airlock_xfer/options.h"
#include "tools/airlock_xfer/peer.h"

namespace airlock::xfer {

/// The channel that measures a path.
constexpr ChannelKind channel_of(PathAsked path) {
  return path == PathAsked::kZmq ? ChannelKind::kSocket : ChannelKind::kRingAndSocket;
}

/// This process's end of a forked peer and of the channels to it: one with rings (for ring and
/// auto) and one without, each only where a path needs it. The fork comes before any thread, ZeroMQ
/// context or segment of this process; when start() returns, no file is left. One thread.
class Pair {
 public:
  /// kResourceExhausted where /dev/shm lacks room; kInvalidInput where no directory can be made for
  /// the sockets. `signal_fd`: a signalfd
  /// that ends all waits, or -1. Call it while the process has one thread.
  static Result<std::unique_ptr<Pair>> start(const Options& options, Hooks hooks, int signal_fd);
  ~Pair();  // tells the peer to end, waits for it, and kills it where it does not
  Pair(const Pair&) = delete;
  Pair& operator=(const Pair&) = delete;

  Channel& channel(ChannelKind kind) {
    return sessions_[static_cast<std::size_t>(kind)]->channel();
  }
  const ControlSocket& control() const { return control_; }
  const PeerLife& life() const { return watch_->life(); }
  const Hooks& hooks() const { return setup_.hooks; }
  /// `status` is why a wait with the peer failed: says what became of the peer, as far as it is
  /// known (its signal, its exit code).
  Status explain(Status status);

 private:
  Pair() = default;
  Status fork_peer();
  Status offer(ChannelKind kind, const Options& options);
  bool reap(Deadline deadline);

  PairSetup setup_;
  ControlSocket control_;
  pid_t peer_ = -1;
  bool reaped_ = false;
  int wait_status_ = 0;
  bool stalled_ = false;  // it will not hear that it should end
  std::unique_ptr<LifeWatch> watch_;
  std::optional<CpuPin> pin_;
  std::unique_ptr<ZmqContext> context_;
  std::array<std::unique_ptr<SessionChannel>, kChannelKinds> sessions_;
};

}  // namespace airlock::xfer
