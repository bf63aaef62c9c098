#include "runtime/rpc/data_door.h"

#include <fmt/format.h>
#include <linux/filter.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <utility>

#include "base/file.h"
#include "base/random.h"
#include "runtime/rpc/tcp.h"

namespace airlock {
namespace {

constexpr int kAttempts = 256;
constexpr std::chrono::milliseconds kSlice{20};

Result<UniqueFd> listen_at(const std::string& path) {
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.valid()) return os_error("make a session's socket", errno);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::copy(path.begin(), path.end(), address.sun_path);
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

Result<DataDoor> DataDoor::open(const Endpoint& control) {
  if (control.kind == Endpoint::Kind::kTcp) {
    Endpoint any_port{control.kind, {}, control.host, "0"};
    ASSIGN_OR_RETURN(UniqueFd fd, listen_tcp(any_port, 0));
    ASSIGN_OR_RETURN(any_port.port, bound_port(fd.get()));
    return DataDoor(std::move(fd), any_port.text());
  }
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    std::uint64_t random = 0;
    RETURN_IF_ERROR(fill_random({&random, 1}));
    ASSIGN_OR_RETURN(const std::string path,
                     session_socket_path(control.path, static_cast<std::uint32_t>(random)));
    auto fd = listen_at(path);
    if (fd.ok()) return DataDoor(std::move(fd).value(), fmt::format("ipc://{}", path));
    if (fd.status().code() != StatusCode::kInUse) return fd.status();
  }
  return Status(StatusCode::kResourceExhausted,
                "no free name for the session's socket; give an --endpoint with a shorter path");
}

DataDoor::~DataDoor() {
  if (listener_.valid()) (void)shut();
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

Status DataDoor::shut() {
  if (endpoint_.starts_with("ipc://")) {
    const std::string path = endpoint_.substr(6);
    if (::unlink(path.c_str()) == 0 || errno == ENOENT) return {};
    return os_error("remove " + path, errno);
  }
  sock_filter drop_all{BPF_RET | BPF_K, 0, 0, 0};
  const sock_fprog program{1, &drop_all};
  if (::setsockopt(listener_.get(), SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program)) == 0)
    return {};
  return os_error("shut the session's data port", errno);
}

Status DataDoor::let_in(ZmqSocket& socket) {
  RETURN_IF_ERROR(shut());
  return socket.bind(endpoint_, std::move(listener_));
}

}  // namespace airlock
