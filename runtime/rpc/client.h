#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/deadline.h"
#include "base/pulse.h"
#include "base/status.h"
#include "base/wake_event.h"
#include "proto/handshake.h"
#include "proto/pool.h"
#include "proto/ring.h"
#include "runtime/rpc/calibration.h"
#include "runtime/rpc/control_connection.h"
#include "runtime/rpc/endpoint.h"
#include "runtime/rpc/peer_life.h"
#include "runtime/rpc/remote_backend.h"
#include "runtime/rpc/session_channel.h"
#include "runtime/stats/op_stats.h"

namespace airlock {

struct ConnectOptions {
  // "ipc:///path" or "tcp://host:port"
  std::string endpoint;
  RingWish ring;
  // What is asked for of the server's pool; none over tcp, and without a ring.
  PoolWish pool;
  // What encrypts a tcp endpoint and knows the server's key; null: nothing does.
  std::shared_ptr<const StreamSecurity> security;
  // Set from anywhere to end connect() and each wait of the session (kCancelled); null: nobody
  // does. Outlives both.
  const std::atomic<bool>* cancelled = nullptr;
  // Set where the server has refused, and why it did is what connect() says; null: nobody asks.
  // Outlives connect().
  bool* refused = nullptr;
  // Beats in each slice of a wait, of connect() and of the session's one thread; null: nobody looks
  // whether that hangs. Outlives both.
  Pulse* pulse = nullptr;
  // The program, for the server's log and statistics.
  std::string client = "tee_runner";
  // The longest time without a connection or a sign of life.
  std::chrono::milliseconds timeout{5000};
  // How long one is asked for, where that is to be less.
  std::optional<std::chrono::milliseconds> patience;
  std::chrono::milliseconds longest_wait() const { return patience.value_or(timeout); }
  // Of the runner's own model; empty: it has none and calls init().
  std::string digest;
  // Of the runner's own model; must equal the server's.
  std::optional<ModelDims> dims;
  // A server without one will do.
  bool needs_model = true;
  // No tensor of so many bytes or more goes by the ring; 0: as the server likes.
  std::uint32_t path_limit = 0;
  // A tensor of strictly fewer bytes rides behind its message's header; at most
  // limits::kMaxInlineBytes, 0: none.
  std::uint32_t inline_bytes = 0;
  // Over tcp, at most limits::kMaxDataSockets; 0: as data_sockets_for() has it.
  std::size_t data_sockets = 1;
  // What the session is for, and which int8 weights it needs: none exactly where it is plain
  // (CHECKed).
  Privacy privacy = Privacy::kPlain;
  Int8Weights int8_weights = Int8Weights::kNone;
};

/// A session with a gpu_server: handshake, signs of life (a thread of its own), channel and
/// backend. One thread calls.
class ClientSession {
 public:
  /// kUnavailable: no server within the timeout; kVersionMismatch, kMismatch (another model's
  /// digest), kResourceExhausted (server full, /dev/shm, no descriptor), kProtocolError (it spoke
  /// wrongly, or geometry was not as demanded).
  static Result<std::unique_ptr<ClientSession>> connect(const ConnectOptions& options);
  ~ClientSession() { close(); }

  RemoteBackend& backend() { return *backend_; }
  /// What the session has leased of the server's pool; null where it has none.
  PoolLease* pool() { return channel_->pool(); }
  /// For RemoteBackend::init().
  std::size_t config_bytes() const { return channel_->welcome().config_bytes; }
  std::uint64_t epoch() const { return channel_->welcome().epoch; }
  std::size_t data_sockets() const { return data_sockets_in(channel_->welcome().capabilities); }
  /// Of the int8 weights that were asked for, hex; else empty. Whoever relies on it compares it
  /// with its own.
  const std::string& int8_digest() const { return int8_digest_; }
  /// What decides each tensor's path, as the handshake agreed.
  const PathPolicy& policy() const { return channel_->channel().policy(); }
  /// How the path limit was found, where the server has it tried (--path-limit auto); else empty.
  const Calibration& calibration() const { return calibration_; }
  TransportStats& transport_stats() { return channel_->channel().stats(); }
  OpStatsTable& op_stats() { return op_stats_; }
  /// Whether the server is there; else the reason why it is not. Thread-safe. Ask once more after
  /// the last result was read: a server that ends gives the memory of the rings back, and what was
  /// read after that is zeros.
  Status check() const;
  /// Ends every wait, with `reason`. Thread-safe.
  void end(Status reason) { life_.end(std::move(reason)); }
  /// Says goodbye, so that the server ends the session at once.
  void close();

 private:
  /// What the channel asks in each slice of a wait: check(), and whether anybody still waits.
  class ServerWatch : public PeerWatch {
   public:
    explicit ServerWatch(const ClientSession& session) : session_(session) {}
    Status check() const override;

   private:
    const ClientSession& session_;
  };

  ClientSession() : watch_(*this) {}
  Status greet(const ConnectOptions& options, const Endpoint& endpoint, Deadline deadline,
               bool& answered);
  Status attach(const ConnectOptions& options, const Endpoint& endpoint, Welcome welcome,
                std::vector<UniqueFd> descriptors);
  Status why_no_limit(const Status& status, const ConnectOptions& options);
  Result<ControlFrame> await_frame(Deadline deadline, const ConnectOptions& options);
  void watch_server(std::chrono::milliseconds timeout);
  void watch(std::chrono::milliseconds timeout);

  // First: sockets close before these.
  std::shared_ptr<const StreamSecurity> security_;
  PeerLife life_;
  Pulse* pulse_ = nullptr;
  const std::atomic<bool>* cancelled_ = nullptr;
  OpStatsTable op_stats_;
  // The control thread's, once that runs.
  std::optional<ControlConnection> control_;
  const ServerWatch watch_;
  std::unique_ptr<SessionChannel> channel_;
  Calibration calibration_;
  std::string int8_digest_;
  std::unique_ptr<RemoteBackend> backend_;
  // Ends the control thread's wait.
  WakeEvent wake_;
  std::atomic<bool> closing_{false};
  // When the server last said anything.
  std::atomic<std::uint64_t> heard_ns_{now_ns()};
  std::thread control_thread_;
};

}  // namespace airlock
