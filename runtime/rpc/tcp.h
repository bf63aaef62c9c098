#pragma once

#include <string>

#include "base/deadline.h"
#include "base/status.h"
#include "base/unique_fd.h"
#include "runtime/rpc/endpoint.h"

namespace airlock {

/// A socket that listens at a tcp endpoint ("*" is all IPv4 addresses) and does not block;
/// `backlog` as listen() has it. kInUse, kInvalidInput.
Result<UniqueFd> listen_tcp(const Endpoint& endpoint, int backlog);
/// A connected socket that does not block. kUnavailable: nobody listens there; kDeadlineExceeded;
/// kResourceExhausted.
Result<UniqueFd> connect_tcp(const Endpoint& endpoint, Deadline deadline);
/// Where a socket is bound, and who its peer is: "127.0.0.1", "[::1]" and the port.
Result<std::string> bound_port(int fd);
std::string peer_address(int fd);

}  // namespace airlock
