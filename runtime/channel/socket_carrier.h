#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "runtime/channel/carrier.h"
#include "runtime/channel/channel.h"
#include "runtime/channel/socket_lanes.h"
#include "runtime/channel/zmtp_socket.h"

namespace airlock {

struct SocketCarrierOptions {
  std::uint64_t epoch = 0;
  /// The session's data socket.
  ZmtpSocket socket;
  /// May be null; outlives the carrier.
  const PeerWatch* watch = nullptr;
  /// Of the session's PathPolicy: what rides behind a header that takes the socket.
  std::size_t inline_room = 0;
  /// The session's further data sockets; null: none.
  std::unique_ptr<SocketLanes> lanes{};
};

/// A carrier, and what it knows of its peer.
struct WatchedCarrier {
  std::unique_ptr<Carrier> carrier;
  /// Whether the peer is gone, by its watch or its connection; of the connection's end it says so
  /// only at the second call. The caller tries once more for what the peer sent last. Must not
  /// outlive the carrier.
  WaitCheck check_peer;
};

/// Carries tensors, and headers where there is no ring, on a session's data socket. Each message
/// that takes it is an opening frame (frame.h), with what rides behind the header, then each of its
/// tensors in frames of limits::kFrameBytes, the last one shorter; received into place. With lanes
/// frames have limits::kStripeBytes, and those of a message that has more than that lie on the
/// sockets in turn, from the first one on; on a lane an opening without a header is in front of
/// them.
WatchedCarrier make_socket_carrier(SocketCarrierOptions options);

}  // namespace airlock
