#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "runtime/channel/channel.h"
#include "runtime/channel/zmq_socket.h"
#include "shm/ring.h"
#include "shm/segment.h"

namespace airlock {

struct LocalChannelOptions {
  std::uint64_t epoch = 0;  // of the session
  /// Shared, because both ends of a channel inside one process may use one mapping (tests under
  /// TSan).
  std::shared_ptr<Segment> out_segment;
  std::shared_ptr<Segment> in_segment;
  RingProducer out_ring;   // on out_segment
  RingConsumer in_ring;    // on in_segment, of the same geometry
  ZmqSocket socket;        // the session's data socket, bound (ROUTER) or connected (DEALER)
  std::string peer_route;  // server: the token, the runner's ZMQ_ROUTING_ID; runner: empty
  const PeerWatch* watch = nullptr;  // may be null; outlives the channel
  bool attached = false;             // a frame of the peer's came already on the socket
  TransportStats* stats = nullptr;   // where to count; null: in the channel itself. Outlives it
};

/// A Channel on two shared-memory rings, one a direction, and a ZeroMQ socket for what is too
/// large. One thread. The path policy follows from the rings' private geometry. A message's header
/// and its ring tensors are published at once; its ZeroMQ tensors follow. A receive() whose
/// deadline passes in the middle of a message returns kDeadlineExceeded and goes on in the next
/// call, which asks its Accept again.
class LocalChannel {
 public:
  static std::unique_ptr<Channel> create(LocalChannelOptions options);
};

}  // namespace airlock
