#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/deadline.h"
#include "base/status.h"
#include "proto/handshake.h"
#include "runtime/channel/channel.h"
#include "runtime/channel/zmq_socket.h"

namespace airlock {

/// A session's channel with what it stands on: the ring segments and the data socket. Made at the
/// server, attached to by the runner. One thread at a time; the context and the watch outlive it.
class SessionChannel {
 public:
  /// Server: makes the segments and binds the data socket at `wanted_endpoint`, and fills in what
  /// `welcome` says of them (epoch, token, geometry and ring must be set). kResourceExhausted where
  /// /dev/shm lacks room. The channel counts in `stats` (outlives it), where given.
  static Result<std::unique_ptr<SessionChannel>> offer(const ZmqContext& context, Welcome& welcome,
                                                       const std::string& wanted_endpoint,
                                                       const PeerWatch& watch,
                                                       TransportStats* stats = nullptr);
  /// Server: waits for the runner to attach; then no file of the session is left.
  virtual Status accept(Deadline deadline) = 0;
  /// Runner: maps and connects as `welcome` (checked) says.
  static Result<std::unique_ptr<SessionChannel>> attach(const ZmqContext& context,
                                                        const Welcome& welcome,
                                                        const std::string& data_endpoint,
                                                        const PeerWatch& watch, Deadline deadline);
  virtual ~SessionChannel() = default;
  /// Server: unlinks what accept() has not unlinked yet; mappings and connection live on.
  virtual void remove_files() = 0;
  /// At the server only after accept().
  virtual Channel& channel() = 0;
  /// The mapped ring segments: where tensors that cross by the ring lie. None without a ring.
  virtual std::vector<std::span<std::byte>> segments() const = 0;
};

}  // namespace airlock
