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
#include "shm/segment.h"

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
  Status accept(Deadline deadline);
  /// Runner: maps and connects as `welcome` (checked) says.
  static Result<std::unique_ptr<SessionChannel>> attach(const ZmqContext& context,
                                                        const Welcome& welcome,
                                                        const std::string& data_endpoint,
                                                        const PeerWatch& watch, Deadline deadline);
  /// Server: unlinks what accept() has not unlinked yet; mappings and connection live on.
  void remove_files();
  /// At the server only after accept().
  Channel& channel() { return *channel_; }
  /// What the server says of the session.
  const Welcome& welcome() const { return welcome_; }
  /// The mapped ring segments: where tensors that cross by the ring lie. None without a ring.
  std::vector<std::span<std::byte>> segments() const;

 private:
  SessionChannel(ZmqSocket socket, const Welcome& welcome, const PeerWatch& watch,
                 TransportStats* stats);
  Status make_segments(Welcome& welcome);
  Status open_channel(const std::string& peer_route);

  std::shared_ptr<Segment> out_segment_;  // shared with the channel
  std::shared_ptr<Segment> in_segment_;
  ZmqSocket socket_;  // until the channel takes it
  Welcome welcome_;
  const PeerWatch& watch_;
  TransportStats* const stats_;
  std::unique_ptr<Channel> channel_;
};

}  // namespace airlock
