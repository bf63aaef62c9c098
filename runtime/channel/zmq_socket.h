#pragma once

#include <chrono>
#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/deadline.h"
#include "base/status.h"
#include "proto/limits.h"

namespace airlock {

/// A ZeroMQ context: its I/O threads. Thread-safe. Outlives its sockets (destroying it waits for
/// them to close).
class ZmqContext {
 public:
  static Result<std::unique_ptr<ZmqContext>> create();
  ~ZmqContext();

 private:
  friend class ZmqSocket;
  struct Impl;
  explicit ZmqContext(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

enum class ZmqSocketType { kRouter, kDealer };

/// As they stand, but for the token and the heartbeats: a session's data socket, which never
/// reconnects, whose frames have one limit, and whose high-water marks bound memory.
struct ZmqSocketOptions {
  /// How long what was sent may still leave after the socket is destroyed.
  std::chrono::milliseconds linger{0};
  /// Queued at each side of each connection.
  int high_water_frames = 16;
  /// A peer that sends a larger frame is disconnected.
  std::size_t max_frame_bytes = limits::kFrameBytes;
  /// Of a DEALER: the session's token on a data socket. Empty: the ROUTER chooses one.
  std::string routing_id;
  /// 0: no heartbeats, else one a second.
  std::chrono::milliseconds heartbeat_timeout{0};
  bool reconnect = false;
  /// Whether connected() and disconnected() know anything.
  bool monitor = true;
  /// Waits end early, kDeadlineExceeded, while it is readable. With it, and a monitor, they also
  /// end when a connection comes or goes.
  int wake_fd = -1;
};

/// One ZeroMQ socket; its .cc is the only home of ZeroMQ's headers and the end of its exceptions.
/// One thread at a time. Errors: kBusy (no room to send by the deadline), kResourceExhausted (no
/// memory, no descriptor), kDeadlineExceeded (nothing to receive), kUnavailable (a ROUTER knows no
/// such peer), kCancelled (the context ends), kInUse and kInvalidInput (endpoint), kProtocolError.
class ZmqSocket {
 public:
  static Result<ZmqSocket> create(const ZmqContext& context, ZmqSocketType type,
                                  const ZmqSocketOptions& options);
  ZmqSocket(ZmqSocket&&) noexcept;
  ZmqSocket& operator=(ZmqSocket&&) noexcept;
  ~ZmqSocket();

  /// Returns the real endpoint ("tcp://127.0.0.1:*" gets its port).
  Result<std::string> bind(const std::string& endpoint);
  Status connect(const std::string& endpoint);

  /// One message of copied parts (a ROUTER's first part is the peer's routing id). All or nothing.
  Status send(std::span<const std::span<const std::byte>> parts, Deadline deadline);
  /// One message whose last part is not copied: `owner` keeps `bytes` alive until libzmq's I/O
  /// thread is done with them. `route`: the peer's routing id at a ROUTER, empty at a DEALER. All
  /// or nothing.
  Status send_shared(std::string_view route, std::span<const std::byte> bytes,
                     std::shared_ptr<const void> owner, Deadline deadline);

  /// One message of any parts, at most 8 (kProtocolError); at a ROUTER the first is the peer's
  /// routing id.
  Result<std::vector<std::vector<std::byte>>> receive(Deadline deadline);
  /// One single-part message into `into`; returns its size. kProtocolError where it is larger or
  /// has more parts. At a ROUTER only from `route`: messages from anyone else are dropped.
  Result<std::size_t> receive_into(std::string_view route, std::span<std::byte> into,
                                   Deadline deadline);

  enum class Wake { kReadable, kWritable, kReadableOrWritable };
  /// ok: try again now. kDeadlineExceeded: nothing happened. A ROUTER is writable as soon as any of
  /// its peers is.
  Status poll(Wake wake, Deadline deadline);

  /// A peer shook hands and at least one connection lives. Does not wait.
  bool connected();
  /// There was a connection (or an attempt that failed) and none lives. Does not wait.
  bool disconnected();

 private:
  struct Impl;
  explicit ZmqSocket(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace airlock
