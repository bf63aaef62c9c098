#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "base/status.h"
#include "proto/ring.h"
#include "runtime/channel/channel.h"
#include "runtime/rpc/remote_backend.h"
#include "runtime/stats/op_stats.h"

namespace airlock {

struct ConnectOptions {
  std::string endpoint;  // "ipc:///path" or "tcp://host:port"
  RingWish ring;
  std::string client = "tee_runner";        // the program, for the server's log and statistics
  std::chrono::milliseconds timeout{5000};  // longest time without a connection or a sign of life
  std::string digest;             // of the runner's own model; empty: it has none and calls init()
  std::optional<ModelDims> dims;  // of the runner's own model; must equal the server's
};

/// A session with a gpu_server: handshake, signs of life (a thread of its own), channel and
/// backend. One thread calls.
class ClientSession {
 public:
  /// kUnavailable: no server within the timeout; kVersionMismatch, kMismatch (another model's
  /// digest), kResourceExhausted (server full, /dev/shm, no descriptor), kProtocolError (it spoke
  /// wrongly, or geometry was not as demanded).
  static Result<std::unique_ptr<ClientSession>> connect(const ConnectOptions& options);
  virtual ~ClientSession() = default;  // closes, if close() was not called

  virtual RemoteBackend& backend() = 0;
  virtual std::size_t config_bytes() const = 0;  // for RemoteBackend::init()
  virtual std::uint64_t epoch() const = 0;
  /// What decides each tensor's path, as the handshake agreed.
  virtual const PathPolicy& policy() const = 0;
  virtual TransportStats& transport_stats() = 0;
  virtual OpStatsTable& op_stats() = 0;
  /// Whether the server is there; else the reason why it is not. Thread-safe.
  virtual Status check() const = 0;
  /// Says goodbye, so that the server ends the session at once.
  virtual void close() = 0;
};

}  // namespace airlock
