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
#include "base/unique_fd.h"
#include "proto/limits.h"

namespace airlock {

/// A ZeroMQ context with its threads. Thread-safe. Outlives its sockets (destroying it waits for
/// them to close).
class ZmqContext {
 public:
  /// Its threads run when this returns: libzmq aborts where it can make none, so they are made
  /// before anybody is served. kResourceExhausted.
  static Result<std::unique_ptr<ZmqContext>> create();
  ~ZmqContext();

 private:
  friend class ZmqSocket;
  struct Impl;
  explicit ZmqContext(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

/// A session's data socket: a PAIR, which has one peer, never reconnects and sends no heartbeats
/// (whether the peer lives the control connection knows). No socket of ours routes by names that a
/// peer may choose: libzmq aborts where two claim one. Its .cc is the only home of ZeroMQ's headers
/// and the end of its exceptions. One thread at a time. Errors: kBusy (no room to send by the
/// deadline), kResourceExhausted (no memory, no descriptor), kDeadlineExceeded (nothing to
/// receive), kCancelled (the context ends), kInUse and kInvalidInput (endpoint), kProtocolError.
class ZmqSocket {
 public:
  /// What was sent and has not left is dropped when it is destroyed; a peer that sends a frame of
  /// more than limits::kFrameBytes is disconnected.
  static Result<ZmqSocket> create(const ZmqContext& context);
  ZmqSocket(ZmqSocket&&) noexcept;
  ZmqSocket& operator=(ZmqSocket&&) noexcept;
  ~ZmqSocket();

  /// Accepts from `listener`, which listens at `endpoint` and does not block. libzmq aborts where
  /// accept() finds no descriptor left, and takes as many connections as come: whoever listens lets
  /// one come at most (runtime/rpc/data_door.h). It listens
  /// until it is destroyed: to libzmq, what it accepted is the listener's and ends with it.
  Status bind(const std::string& endpoint, UniqueFd listener);
  Status connect(const std::string& endpoint);

  /// One frame, copied. All or nothing.
  Status send(std::span<const std::byte> bytes, Deadline deadline);
  /// One frame that is not copied: `owner` keeps `bytes` alive until libzmq's I/O thread is done
  /// with them. All or nothing.
  Status send_shared(std::span<const std::byte> bytes, std::shared_ptr<const void> owner,
                     Deadline deadline);
  /// One frame into `into`; returns its size. kProtocolError where it is larger, or where the
  /// message has more parts.
  Result<std::size_t> receive_into(std::span<std::byte> into, Deadline deadline);

  enum class Wake { kReadable, kWritable, kReadableOrWritable };
  /// ok: try again now. kDeadlineExceeded: nothing happened.
  Status poll(Wake wake, Deadline deadline);

  /// The peer shook hands and its connection lives. Does not wait.
  bool connected();
  /// There was a connection (or an attempt that failed) and none lives. Does not wait.
  bool disconnected();

 private:
  struct Impl;
  explicit ZmqSocket(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace airlock
