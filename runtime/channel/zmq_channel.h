#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "runtime/channel/channel.h"
#include "runtime/channel/zmq_socket.h"

namespace airlock {

struct ZmqChannelOptions {
  std::uint64_t epoch = 0;  // of the session
  std::size_t limit_bytes =
      limits::kDefaultSlotBytes;  // told by policy(), decides nothing without a ring
  ZmqSocket socket;               // the session's data socket, bound (ROUTER) or connected (DEALER)
  std::string peer_route;         // server: the token, the runner's ZMQ_ROUTING_ID; runner: empty
  const PeerWatch* watch = nullptr;  // may be null; outlives the channel
  bool attached = false;             // a frame of the peer's came already on the socket
  TransportStats* stats = nullptr;   // where to count; null: in the channel itself. Outlives it
};

/// A Channel on one ZeroMQ socket alone: header and tensors as frames. One thread. A receive()
/// whose deadline passes in the middle of a message returns kDeadlineExceeded and goes on in the
/// next call, which asks its Accept again.
class ZmqChannel {
 public:
  static std::unique_ptr<Channel> create(ZmqChannelOptions options);
};

}  // namespace airlock
