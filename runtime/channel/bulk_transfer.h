#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/deadline.h"
#include "base/status.h"
#include "runtime/channel/buffer_pool.h"
#include "runtime/channel/channel.h"
#include "runtime/channel/frame.h"
#include "runtime/channel/zmq_socket.h"

namespace airlock {

/// A tensor that travels on the data socket.
struct BulkTensor {
  std::size_t index = 0;  // in its message
  PooledBuffer buffer;
};

/// What a channel's pool keeps at most of buffers that nobody uses.
inline constexpr std::size_t kBulkCacheBytes = std::size_t{512} << 20;
/// A buffer for each tensor whose path is kZmq.
Result<std::vector<BulkTensor>> take_buffers(BufferPool& pool,
                                             std::span<const std::size_t> tensor_bytes,
                                             std::span<const Path> paths);

/// What goes out for one message. `header_frame` is empty where the header took the ring.
struct OutgoingMessage {
  std::uint64_t sequence = 0;
  std::vector<std::byte> header_frame;
  std::vector<BulkTensor> tensors;
  std::vector<std::size_t> tensor_bytes;  // of all its tensors, for the statistics
};

struct BulkTransferOptions {
  ZmqSocket socket;
  std::string peer_route;  // the runner's routing id at the server (a ROUTER); empty at the runner
                           // (a DEALER)
  std::uint64_t epoch = 0;
  PathPolicy policy;
  const PeerWatch* watch = nullptr;  // may be null; outlives the transfer
  TransportStats* stats = nullptr;   // outlives the transfer
  bool attached =
      false;  // a frame of the peer's came already: its connection's end is the session's
};

/// One session's data socket: sends and receives bulk tensors piece by piece, both directions at
/// once, never blocking except in wait(). On the wire each bulk tensor is a preamble frame
/// (frame.h) and then chunks of limits::kFrameBytes, the last one shorter; received into place. One
/// thread.
class BulkTransfer {
 public:
  explicit BulkTransfer(BulkTransferOptions options);

  /// Takes over a message while none is being sent (CHECKed). It is booked as sent with its last
  /// frame.
  void start_send(OutgoingMessage message);
  bool sending() const { return sending_; }
  /// Hands over what there is room for. ok: all of it. kResourceExhausted: more to go.
  Status advance_send();
  /// advance_send() until done or the deadline (kResourceExhausted).
  Status finish_send(Deadline deadline);

  /// The next frame, into `into`; kDeadlineExceeded: none there.
  Result<std::size_t> try_receive_frame(std::span<std::byte> into);
  /// Expects these tensors of message `sequence` next on the socket.
  void start_receive(std::uint64_t sequence, std::vector<BulkTensor> tensors);
  /// Receives what is there. ok: all tensors are complete. kDeadlineExceeded: more to come.
  Status advance_receive();

  enum class For { kSend, kReceive };
  /// One slice (at most 50 ms) of a wait for room or for frames; a wait to receive also wakes for
  /// room where a message is half sent. ok: try again. kDeadlineExceeded: the deadline. Else: the
  /// peer is gone.
  Status wait(For purpose, Deadline deadline);
  /// Whether the peer is gone, by its watch or its connection. Says so only at the second call, so
  /// that the caller tries once more for what the peer sent last.
  Status check_peer();

 private:
  struct OutgoingFrame {
    std::shared_ptr<const void> owner;
    std::span<const std::byte> bytes;
  };
  struct ExpectedFrame {
    std::span<std::byte> into;  // empty: a preamble
    BulkPreamble preamble;
  };
  Status send_frame(const OutgoingFrame& frame);

  ZmqSocket socket_;
  const std::string peer_route_;
  const std::uint64_t epoch_;
  const PathPolicy policy_;
  const PeerWatch* const watch_;
  TransportStats& stats_;
  bool heard_ = false;  // a frame went to or came from the right peer
  Status gone_;

  bool sending_ = false;
  std::deque<OutgoingFrame> outgoing_;
  std::vector<std::size_t> outgoing_tensor_bytes_;
  std::deque<ExpectedFrame> expected_;
  std::vector<BulkTensor> incoming_;  // keeps the memory of expected_ alive
};

}  // namespace airlock
