#include "runtime/rpc/data_door.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdint>
#include <utility>

#include "base/file.h"
#include "base/random.h"
#include "runtime/rpc/tcp.h"

namespace airlock {
namespace {

constexpr std::string_view kIpc = "ipc://";
constexpr int kAttempts = 256;
constexpr std::chrono::milliseconds kSlice{20};

Result<UniqueFd> listen_at(const std::string& path) {
  ASSIGN_OR_RETURN(const sockaddr_un address, unix_address(path));
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.valid()) return os_error("make a session's socket", errno);
  if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    if (errno == EADDRINUSE) return Status(StatusCode::kInUse, path);
    return os_error("make " + path, errno);
  }
  (void)::chmod(path.c_str(), 0600);
  if (::listen(fd.get(), 0) == 0) return fd;
  const Status status = os_error("listen at " + path, errno);
  ::unlink(path.c_str());
  return status;
}

}  // namespace

Result<DataDoor> DataDoor::open(const Endpoint& control, std::size_t visits) {
  if (control.kind == Endpoint::Kind::kTcp) {
    Endpoint any_port{control.kind, {}, control.host, "0"};
    ASSIGN_OR_RETURN(UniqueFd fd, listen_tcp(any_port, static_cast<int>(visits) - 1));
    ASSIGN_OR_RETURN(any_port.port, bound_port(fd.get()));
    return DataDoor(std::move(fd), any_port.text());
  }
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    std::uint64_t random = 0;
    RETURN_IF_ERROR(fill_random({&random, 1}));
    ASSIGN_OR_RETURN(const std::string path,
                     session_socket_path(control.path, static_cast<std::uint32_t>(random)));
    auto fd = listen_at(path);
    if (fd.ok()) return DataDoor(std::move(fd).value(), fmt::format("{}{}", kIpc, path));
    if (fd.status().code() != StatusCode::kInUse) return fd.status();
  }
  return Status(StatusCode::kResourceExhausted,
                "no free name for the session's socket; give an --endpoint with a shorter path");
}

DataDoor::~DataDoor() {
  if (listener_.valid()) remove_name();
}

Status DataDoor::await_knock(const PeerWatch& watch, Deadline deadline) const {
  for (;;) {
    pollfd waiting{listener_.get(), POLLIN, 0};
    const auto left =
        std::chrono::ceil<std::chrono::milliseconds>(deadline.slice(kSlice).remaining());
    if (::poll(&waiting, 1, static_cast<int>(left.count())) > 0) return {};
    RETURN_IF_ERROR(watch.check());
    if (deadline.expired())
      return {StatusCode::kDeadlineExceeded, "nobody came to the session's data socket"};
  }
}

void DataDoor::remove_name() {
  if (std::exchange(has_name_, false)) ::unlink(endpoint_.substr(kIpc.size()).c_str());
}

Result<ZmtpSocket> DataDoor::let_in(const StreamSecurity* security) {
  UniqueFd connection(::accept4(listener_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
  const int error = errno;
  remove_name();
  if (connection.valid()) {
    ASSIGN_OR_RETURN(SocketStream stream,
                     SocketStream::open(std::move(connection), security, StreamRole::kServer));
    return ZmtpSocket(std::move(stream));
  }
  const Status status = os_error("accept at a session's data socket", error);
  if (status.code() == StatusCode::kResourceExhausted) return status;
  return Status(StatusCode::kUnavailable, status.message());
}

}  // namespace airlock
