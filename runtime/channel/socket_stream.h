#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <memory>
#include <span>

#include "base/deadline.h"
#include "base/status.h"
#include "base/unique_fd.h"
#include "shm/wait.h"

namespace airlock {

/// The end of a connection that this process has: who made it, or who took it.
enum class StreamRole { kClient, kServer };

/// What encrypts one connection and knows its peer. Nothing here waits. One thread at a time.
class StreamSession {
 public:
  virtual ~StreamSession() = default;
  /// How many of `bytes` were taken, some at least; they leave at once or with flush(). kBusy: none
  /// now; after that the same bytes come first. kUnavailable: the peer has gone. kMismatch: one
  /// side has a key that the other does not want. kProtocolError: it spoke wrongly. After an error
  /// but kBusy it is over.
  virtual Result<std::size_t> send(std::span<const std::byte> bytes) = 0;
  /// Hands over what was taken. kBusy: there is more; kUnavailable.
  virtual Status flush() = 0;
  virtual bool sending() const = 0;
  /// What both calls begin with: ok once both sides have shown their keys. Errors as of send().
  virtual Status shake_hands() = 0;
  /// How many bytes came into `into`, some at least. Errors as of send().
  virtual Result<std::size_t> receive(std::span<std::byte> into) = 0;
  virtual bool is_open() const = 0;
  /// What to poll() for where `events` are wanted: until both sides have shown their keys it is
  /// what that waits for.
  virtual short events(short events) const = 0;
  /// Bytes came that poll() knows nothing of.
  virtual bool holds_bytes() const = 0;
};

/// Makes sessions. Any thread.
class StreamSecurity {
 public:
  virtual ~StreamSecurity() = default;
  /// `fd` is connected, does not block and outlives the session. kResourceExhausted.
  virtual Result<std::unique_ptr<StreamSession>> begin(int fd, StreamRole role) const = 0;
};

/// The bytes of a connected socket that does not block, plain or in a session that encrypts them.
/// Nothing here waits but shake_hands(). One thread at a time.
class SocketStream {
 public:
  explicit SocketStream(UniqueFd fd) : fd_(std::move(fd)) {}
  /// Plain without `security`, which else outlives it.
  static Result<SocketStream> open(UniqueFd fd, const StreamSecurity* security, StreamRole role);

  int fd() const { return fd_.get(); }
  /// Both sides have shown their keys; a plain one has none.
  bool is_open() const { return session_ == nullptr || session_->is_open(); }
  /// Waits until both sides have shown their keys; a plain one has none. kDeadlineExceeded; errors
  /// as send(), and what `check` says, which is asked now and then.
  Status shake_hands(Deadline deadline, const WaitCheck& check = {});
  /// As StreamSession's; over all of `parts`. Plain, a peer that has gone is kUnavailable, and all
  /// that was taken has left.
  Result<std::size_t> send(std::span<const iovec> parts);
  Status flush() { return session_ != nullptr ? session_->flush() : Status(); }
  bool sending() const { return session_ != nullptr && session_->sending(); }
  Result<std::size_t> receive(std::span<const iovec> parts);
  /// What to poll() for where `events` are wanted.
  short events(short events) const {
    return session_ != nullptr ? session_->events(events) : events;
  }
  /// Whether it can be read without a poll().
  bool holds_bytes() const { return session_ != nullptr && session_->holds_bytes(); }

 private:
  UniqueFd fd_;
  std::unique_ptr<StreamSession> session_;  // before the descriptor goes
};

}  // namespace airlock
