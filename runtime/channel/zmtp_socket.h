#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <vector>

#include "base/deadline.h"
#include "base/status.h"
#include "runtime/channel/socket_stream.h"

namespace airlock {

/// A session's data connection: a PAIR of ZeroMQ's wire protocol (ZMTP 3.0, rfc.zeromq.org/spec/23,
/// mechanism NULL), spoken by ourselves: no thread, and no memory but what the caller gives and a
/// buffer of 16 KiB, whatever the peer sends (docs/adr/0016); with keys those of SocketStream's
/// session besides. Takes messages of one part only. One thread at a time.
class ZmtpSocket {
 public:
  explicit ZmtpSocket(SocketStream connection);

  /// One more frame to send, not copied: `owner` keeps `bytes` alive until they have left.
  void queue(std::span<const std::byte> bytes, std::shared_ptr<const void> owner);
  /// Hands over what the system takes now; nothing before the peer has greeted, as libzmq demands.
  /// kBusy: there is more. Where nobody will ever take it disconnected() says so.
  Status flush();
  bool sending() const { return !outgoing_.empty() || stream_.sending(); }
  /// One frame, copied, and all of it handed over. kBusy: not by the deadline, it is still queued.
  Status send(std::span<const std::byte> bytes, Deadline deadline);

  /// One frame into `into`; returns its size. kDeadlineExceeded: it is not all there; call again
  /// with the same place. kProtocolError: it is larger, or what came is no frame of ours.
  /// kUnavailable: the connection is closed.
  Result<std::size_t> receive_into(std::span<std::byte> into, Deadline deadline);

  enum class Wake { kReadable, kWritable, kReadableOrWritable, kNothing };
  /// ok: try again now, or the descriptor `other` can be read. kDeadlineExceeded: nothing happened.
  Status poll(Wake wake, Deadline deadline, int other = -1) const;
  int fd() const { return stream_.fd(); }
  /// The connection ended; something that came before may still be received. Does not wait.
  bool disconnected() const;

 private:
  static constexpr std::size_t kMostHeadBytes = 9;

  struct Outgoing {
    std::array<std::byte, kMostHeadBytes> head{};
    std::size_t head_bytes = 0;
    std::span<const std::byte> bytes;
    std::shared_ptr<const void> owner;

    std::size_t size() const { return head_bytes + bytes.size(); }
  };
  enum class Next { kGreeting, kReady, kFrames };

  std::span<const std::byte> stashed() const {
    return std::span(stash_).subspan(begin_, end_ - begin_);
  }
  Result<std::size_t> write(std::span<const iovec> parts);
  Status flush_stream();
  Status shake_hands();
  void sent(std::size_t count);
  Status fill(std::span<std::byte> place);
  Result<bool> take_greeting();
  Result<bool> take_ready();
  Result<bool> take_head();
  Result<bool> take_frame(std::span<std::byte> into);
  Result<std::size_t> try_receive(std::span<std::byte> into);

  SocketStream stream_;
  bool closed_ = false;

  std::size_t introduced_ = 0;
  std::deque<Outgoing> outgoing_;
  std::size_t sent_of_first_ = 0;

  Next next_ = Next::kGreeting;
  /// What came and was not taken yet: stash_[begin_, end_).
  std::vector<std::byte> stash_;
  std::size_t begin_ = 0;
  std::size_t end_ = 0;
  /// Of the frame that comes; a large one is read into its place.
  bool has_head_ = false;
  std::size_t frame_bytes_ = 0;
  std::byte* place_ = nullptr;
  std::size_t placed_ = 0;
};

}  // namespace airlock
