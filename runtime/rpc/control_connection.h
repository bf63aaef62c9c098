#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/deadline.h"
#include "base/status.h"
#include "base/unique_fd.h"
#include "proto/handshake.h"
#include "runtime/channel/socket_stream.h"
#include "runtime/rpc/endpoint.h"

namespace airlock {

/// A control message as it came: whoever reads it decides what it is to be refused for.
struct ControlFrame {
  std::vector<std::byte> bytes;
  /// Of segments, beside a Welcome.
  std::vector<UniqueFd> descriptors;
};

/// One connection of the control channel: whole messages, in order, either way, and the peer's end
/// seen at once. A Unix socket that keeps packets apart and can pass descriptors (ipc), or TCP with
/// a length in front of each message (docs/PROTOCOL.md), encrypted where there are keys. Nothing
/// here waits but connect(). One thread.
class ControlConnection {
 public:
  /// Whether descriptors may come from the peer.
  enum class Descriptors { kTake, kRefuse };

  /// Runner; over tcp in a session of `security` (outlives it), where given; `check` is asked now
  /// and then while keys are shown. kUnavailable: no
  /// server there, or not a server of ours (another user's, another program's); kDeadlineExceeded;
  /// kMismatch, kVersionMismatch: keys.
  static Result<ControlConnection> connect(const Endpoint& endpoint, Deadline deadline,
                                           const StreamSecurity* security = nullptr,
                                           const WaitCheck& check = {});
  /// `peer` names the other end, for messages and for counting its connections: over tcp its
  /// numeric address.
  ControlConnection(SocketStream stream, Endpoint::Kind kind, std::string peer,
                    Descriptors descriptors)
      : stream_(std::move(stream)),
        kind_(kind),
        peer_(std::move(peer)),
        descriptors_(descriptors) {}

  int fd() const { return stream_.fd(); }
  const std::string& peer() const { return peer_; }
  /// Sends now or not at all, with copies of `descriptors` beside it (ipc). kBusy: the peer does
  /// not read; kUnavailable: it has gone.
  Status send(const ControlMessage& message, std::span<const int> descriptors = {});
  /// Server: for whoever spoke without keys where keys are wanted, a refusal that it can read;
  /// where none are wanted, nothing.
  void refuse_without_keys() const;
  /// Whether the rest of a message waits for room: poll for POLLOUT, then flush().
  bool sending() const { return !outgoing_.empty() || stream_.sending(); }
  Status flush();
  /// What to poll() for where `events` are wanted.
  short events(short events) const { return stream_.events(events); }
  /// The next message; nullopt: none has come whole. kUnavailable: the peer has gone; kMismatch:
  /// keys; kProtocolError: it is too large, or carries what it may not.
  Result<std::optional<ControlFrame>> receive();
  /// Whether the peer has closed its end, asked of the system. Any thread, while this lives.
  bool peer_closed() const;

 private:
  Result<std::optional<ControlFrame>> receive_tcp();

  SocketStream stream_;
  Endpoint::Kind kind_;
  std::string peer_;
  Descriptors descriptors_;
  /// TCP: what came of the next messages, and what is still to leave.
  std::vector<std::byte> incoming_;
  std::vector<std::byte> outgoing_;
};

/// Where a server's control connections come in. One thread.
class ControlListener {
 public:
  /// Binds: for ipc the caller holds the endpoint's lock, and what lies at the path is a dead
  /// server's. Over tcp only sessions of `security` (outlives it) come in, where given. kInUse
  /// (tcp), kInvalidInput, kResourceExhausted.
  static Result<ControlListener> listen(const Endpoint& endpoint,
                                        const StreamSecurity* security = nullptr);

  int fd() const { return fd_.get(); }
  /// With the real port.
  const Endpoint& endpoint() const { return endpoint_; }
  /// The next connection; nullopt: none waits, or the one that did was turned away: it is another
  /// user's, or no descriptor was left for it. Never waits.
  std::optional<ControlConnection> accept();
  /// For a moment after a connection that could not be accepted: not to be polled.
  bool is_resting() const { return !rest_until_.expired(); }

 private:
  ControlListener(UniqueFd fd, Endpoint endpoint, const StreamSecurity* security, UniqueFd spare)
      : fd_(std::move(fd)),
        endpoint_(std::move(endpoint)),
        security_(security),
        spare_(std::move(spare)) {}

  UniqueFd fd_;
  Endpoint endpoint_;
  const StreamSecurity* security_;
  /// Given up to accept, and so to turn away, where no other descriptor is left: a connection that
  /// stays in the queue would wake the poll for ever.
  UniqueFd spare_;
  Deadline rest_until_ = Deadline::now();
};

}  // namespace airlock
