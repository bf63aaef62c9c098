#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include "base/status.h"
#include "base/wake_event.h"
#include "runtime/channel/zmtp_socket.h"

namespace airlock {

/// A session's data sockets but the first, each with a thread that alone touches it: to encrypt one
/// stream, or to copy it, keeps one core busy (docs/adr/0027). Nothing here waits. One thread
/// calls.
class SocketLanes {
 public:
  /// Of sockets whose connections are open. kResourceExhausted: no thread, or no descriptor.
  static Result<std::unique_ptr<SocketLanes>> start(std::vector<ZmtpSocket> sockets);
  /// Ends the threads: what was not sent or filled by then never is.
  ~SocketLanes();
  SocketLanes(const SocketLanes&) = delete;
  SocketLanes& operator=(const SocketLanes&) = delete;

  std::size_t count() const { return lanes_.size(); }
  /// Frames of lane `index` that are to leave, in order; `owner` keeps their bytes alive, and is
  /// let go of once they have left, by the lane's thread.
  void send(std::size_t index, const std::vector<std::span<const std::byte>>& frames,
            const std::shared_ptr<const void>& owner);
  /// Places that its next frames fill exactly: its thread's until no lane is receiving(), or this
  /// ends.
  void receive(std::size_t index, const std::vector<std::span<std::byte>>& places);
  bool sending() const;
  bool receiving() const;
  /// Why a lane is over: then nothing more of it is sent or filled. kUnavailable: its connection
  /// ended while it was receiving, and all that came before was taken; kProtocolError: a frame of
  /// another size, or none; kResourceExhausted: no memory; with keys what StreamSession says
  /// besides.
  Status check() const;
  /// A connection ended: of a lane that is receiving once all that came before was taken.
  bool disconnected() const;
  /// Set when one of the above has changed; whoever waits for that clears it before it looks.
  WakeEvent& changed() { return changed_; }

 private:
  class Lane;

  SocketLanes();

  WakeEvent changed_;  // before the lanes, whose threads set it
  std::vector<std::unique_ptr<Lane>> lanes_;
};

}  // namespace airlock
