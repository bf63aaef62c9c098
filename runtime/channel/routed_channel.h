#pragma once

#include <memory>

#include "runtime/channel/carrier.h"
#include "runtime/channel/channel.h"

namespace airlock {

struct RoutedChannelOptions {
  PathPolicy policy;
  /// The path limit is still to be found: nothing is counted before agree().
  bool awaits_limit = false;
  /// One for each path that `policy` may give (CHECKed), null for the others.
  PerValue<Path, std::unique_ptr<Carrier>> carriers;
  /// Where to count; null: in the channel itself. Outlives it.
  TransportStats* stats = nullptr;
  /// May be null; outlives the channel. What looks like a breach of the protocol after the peer's
  /// end is the peer's end.
  const PeerWatch* watch = nullptr;
};

/// The channel of a session: plans each message once and has every path's carrier carry its
/// tensors, the header first. One thread.
std::unique_ptr<Channel> make_routed_channel(RoutedChannelOptions options);

}  // namespace airlock
