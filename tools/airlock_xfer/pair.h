#pragma once

#include <sched.h>
#include <sys/types.h>

#include <memory>
#include <optional>

#include "base/unique_fd.h"
#include "pool/first_fit.h"
#include "pool/region.h"
#include "runtime/rpc/session_channel.h"
#include "tools/airlock_xfer/control.h"
#include "tools/airlock_xfer/options.h"
#include "tools/airlock_xfer/peer.h"

namespace airlock::xfer {

/// The session in which a path is measured, by the fastest path that it has: the path itself, so
/// that no faster one can take its tensors; for auto (nullopt) all paths.
constexpr Path session_of(std::optional<Path> path) { return path.value_or(kPaths.front()); }

/// This process's end of a forked peer and of the sessions with it: one with rings and, for auto, a
/// pool; one with a pool and rings that carry headers alone; and one with neither, each only where
/// a path needs it. The fork comes before any thread, ZeroMQ context or segment of this process;
/// when start() returns, no file is left. One thread.
class Pair {
 public:
  /// kResourceExhausted where /dev/shm lacks room; kInvalidInput where no directory can be made for
  /// the sockets. `signal_fd`: a signalfd that ends all waits, or -1. The options outlive the pair.
  /// Call it while the process has one thread.
  static Result<std::unique_ptr<Pair>> start(const Options& options, const Hooks& hooks,
                                             int signal_fd);
  /// Tells the peer to end, waits for it, and kills it where it does not.
  ~Pair();
  Pair(const Pair&) = delete;
  Pair& operator=(const Pair&) = delete;

  PairSetup& setup() { return setup_; }
  /// Divides what a session has of its pool; null where that is nothing.
  FirstFit* room(Path session) { return room_[session] ? &*room_[session] : nullptr; }
  Channel& channel(Path session) { return sessions_[session]->channel(); }
  const PeerLife& life() const { return *watch_; }
  Status tell(const ControlPacket& packet) const { return send_order(control_.get(), packet); }
  /// The peer's answer to an order that it was told.
  Result<ControlPacket> answer(Order order, Deadline deadline) const;
  /// `status` is why a wait with the peer failed: says what became of the peer, as far as it is
  /// known (its signal, its exit code).
  Status explain(Status status);

 private:
  Pair(const Options& options, const Hooks& hooks) : setup_{options, hooks} {}
  Status fork_peer();
  Status offer(Path session);
  Status make_pool(Path session);
  Endpoint data_endpoint(Path session) const;
  bool reap(Deadline deadline);

  PairSetup setup_;
  UniqueFd control_;
  pid_t peer_ = -1;
  bool reaped_ = false;
  int wait_status_ = 0;
  // It will not hear that it should end.
  bool stalled_ = false;
  std::unique_ptr<LifeWatch> watch_;
  // Where this thread could run before it was pinned to a CPU.
  std::optional<cpu_set_t> unpinned_;
  // Before the sessions that lease of them.
  PerValue<Path, std::unique_ptr<PoolRegion>> pools_;
  PerValue<Path, std::optional<FirstFit>> room_;
  PerValue<Path, std::unique_ptr<SessionChannel>> sessions_;
};

}  // namespace airlock::xfer
