#pragma once

#include <string>

#include "base/deadline.h"
#include "base/status.h"
#include "base/unique_fd.h"
#include "runtime/channel/channel.h"
#include "runtime/channel/zmtp_socket.h"
#include "runtime/rpc/endpoint.h"

namespace airlock {

/// Where the runner of one session knocks. It opens once, to whoever knocks first, or over tcp as
/// often as the session has data sockets; others that knock are sent away at its end. Until then
/// its port is nobody else's, who could ask the runner for the token there. One thread.
class DataDoor {
 public:
  /// A door beside the control socket at `control`, the endpoint as the server has bound it: a file
  /// in the same directory with a name by chance, or another port of the same host. `visits`: how
  /// many are to be let in. kResourceExhausted, kUsage (no room for a name), kInvalidInput.
  static Result<DataDoor> open(const Endpoint& control, std::size_t visits = 1);
  DataDoor(DataDoor&&) noexcept = default;
  DataDoor& operator=(DataDoor&&) noexcept = default;
  /// Removes the file.
  ~DataDoor();

  /// What the runner connects to.
  const std::string& endpoint() const { return endpoint_; }
  /// Until a connection waits. kDeadlineExceeded, or what `watch` says.
  Status await_knock(const PeerWatch& watch, Deadline deadline) const;
  /// The connection that waits, in a session of `security` (outlives it), where given; over ipc no
  /// other gets in. kUnavailable: it has gone; kResourceExhausted: no descriptor.
  Result<ZmtpSocket> let_in(const StreamSecurity* security = nullptr);

 private:
  DataDoor(UniqueFd listener, std::string endpoint)
      : listener_(std::move(listener)),
        endpoint_(std::move(endpoint)),
        has_name_(endpoint_.starts_with("ipc://")) {}
  void remove_name();

  UniqueFd listener_;
  std::string endpoint_;
  bool has_name_;  // a file
};

}  // namespace airlock
