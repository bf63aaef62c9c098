#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "pool/pool_map.h"
#include "runtime/channel/zmtp_socket.h"
#include "shm/ring.h"
#include "tests/hostile/draft.h"
#include "tests/hostile/segments.h"

namespace airlock::hostile {

/// The hostile end of a session's channel: rings and a socket, by which it sends whatever it likes
/// and receives what an honest peer sends. One thread.
class RawEnd {
 public:
  struct Options {
    ZmtpSocket socket;
    bool has_ring = true;
    /// Where this end sends; it receives by the other one.
    Segments::Ring out = Segments::kRequest;
    /// Not ok where the honest side is gone: nothing is waited for any more.
    WaitCheck gone;
    /// What the session has of a pool, as this end maps it; null: nothing. Outlives it.
    const PoolMap* pool = nullptr;
    /// Of the session's PathPolicy.
    std::size_t inline_bytes = 0;
  };
  RawEnd(Options options, Segments& segments);

  /// The next message from here: its sequence is the count of those before.
  Draft draft(const Bytes& header, const std::vector<Bytes>& tensors,
              std::span<const PoolPlace> places = {}) const;
  /// Sends it. False: there was no room by the deadline, or the hostile end has spoiled its own
  /// ring.
  bool send(const Draft& draft, Deadline deadline);

  struct Received {
    Bytes header;
    std::vector<Bytes> tensors;
  };
  /// What the honest side sent next, whose header `sizes_of` can read, and whose tensors were to be
  /// at `places`, where they take the pool; nullopt: nothing by the deadline, or nothing that can
  /// be read any more (broken()).
  using SizesOf = std::function<Result<std::vector<std::size_t>>(std::span<const std::byte>)>;
  std::optional<Received> receive(const SizesOf& sizes_of, Deadline deadline,
                                  std::span<const PoolPlace> places = {});
  bool broken() const { return broken_; }

  /// Wakes whoever waits at a bell.
  static void ring_bells(Segments& segments);

 private:
  bool send_frame(const Bytes& frame, Deadline deadline);
  std::optional<Bytes> receive_frame(Deadline deadline);
  std::optional<Bytes> receive_header(Deadline deadline, std::vector<Bytes>& slots);

  Options options_;
  PathPolicy policy_;
  std::optional<RingProducer> producer_;
  std::optional<RingConsumer> consumer_;
  /// For what comes on the socket; a frame may come in parts.
  Bytes incoming_ = Bytes(limits::kFrameBytes);
  std::uint64_t sent_ = 0;
  std::uint64_t received_ = 0;  // openings with a header
  bool broken_ = false;
};

}  // namespace airlock::hostile
