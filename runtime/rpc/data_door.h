#pragma once

#include <string>

#include "base/deadline.h"
#include "base/status.h"
#include "base/unique_fd.h"
#include "runtime/channel/channel.h"
#include "runtime/channel/zmq_socket.h"
#include "runtime/rpc/endpoint.h"

namespace airlock {

/// Where the runner of one session knocks: a listening socket of our own, which libzmq is given
/// only once one connection waits there and no other can come any more. libzmq accepts whatever
/// comes and aborts the process where it finds no descriptor left, so no stranger may ever reach a
/// listener of its own. One thread.
///
/// One connection waits at most, as the backlog is 0. To shut a Unix socket is to remove its file:
/// the kernel looks the path up for each connection, also for those that wait for room. A TCP
/// listener gets a packet filter that drops all.
class DataDoor {
 public:
  /// A door beside the control socket at `control`, the endpoint as the server has bound it: a file
  /// in the same directory with a name by chance, or another port of the same host.
  /// kResourceExhausted, kUsage (no room for a name), kInvalidInput.
  static Result<DataDoor> open(const Endpoint& control);
  DataDoor(DataDoor&&) noexcept = default;
  DataDoor& operator=(DataDoor&&) noexcept = default;
  /// Removes the file.
  ~DataDoor();

  /// What the runner connects to.
  const std::string& endpoint() const { return endpoint_; }
  /// Until a connection waits. kDeadlineExceeded, or what `watch` says.
  Status await_knock(const PeerWatch& watch, Deadline deadline) const;
  /// Lets the connection that waits in, and no other; `socket` is its other end.
  Status let_in(ZmqSocket& socket);

 private:
  DataDoor(UniqueFd listener, std::string endpoint)
      : listener_(std::move(listener)), endpoint_(std::move(endpoint)) {}
  Status shut();

  UniqueFd listener_;
  std::string endpoint_;
};

}  // namespace airlock
