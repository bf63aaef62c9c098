#include "runtime/rpc/tcp.h"

#include <fmt/format.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <memory>
#include <utility>

#include "base/file.h"

namespace airlock {
namespace {

using Addresses = std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)>;

/// May ask a name server: it waits as long as the system's resolver does.
Result<Addresses> resolve(const Endpoint& endpoint, bool to_listen) {
  std::string host = endpoint.host;
  if (host == "*") host = "0.0.0.0";
  if (host.starts_with('[') && host.ends_with(']')) host = host.substr(1, host.size() - 2);
  const std::string port = endpoint.port == "*" ? "0" : endpoint.port;
  addrinfo hints{};
  hints.ai_family = host == "localhost" ? AF_INET : AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICSERV | (to_listen ? AI_PASSIVE : 0);
  addrinfo* found = nullptr;
  if (const int error = ::getaddrinfo(host.c_str(), port.c_str(), &hints, &found); error != 0) {
    return Status(to_listen ? StatusCode::kInvalidInput : StatusCode::kUnavailable,
                  "endpoint {}: no such address: {}", endpoint.text(), ::gai_strerror(error));
  }
  return Addresses(found, &::freeaddrinfo);
}

Result<UniqueFd> make_socket(const addrinfo& address) {
  UniqueFd fd(::socket(address.ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, IPPROTO_TCP));
  if (!fd.valid()) return os_error("make a TCP socket", errno);
  return fd;
}

Status await_connection(int fd, const Endpoint& endpoint, Deadline deadline) {
  for (;;) {
    pollfd waiting{fd, POLLOUT, 0};
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(
        deadline.slice(std::chrono::seconds(1)).remaining());
    if (::poll(&waiting, 1, static_cast<int>(left.count())) > 0) break;
    if (deadline.expired())
      return {StatusCode::kDeadlineExceeded, "no connection to {}", endpoint.text()};
  }
  int error = 0;
  socklen_t size = sizeof(error);
  if (::getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) != 0) error = errno;
  if (error == 0) return {};
  return {StatusCode::kUnavailable, "cannot connect to {}: {}", endpoint.text(), os_message(error)};
}

std::string text_of(const sockaddr_storage& address, socklen_t size, bool wants_port) {
  char host[NI_MAXHOST] = {};
  char port[NI_MAXSERV] = {};
  if (::getnameinfo(reinterpret_cast<const sockaddr*>(&address), size, host, sizeof(host), port,
                    sizeof(port), NI_NUMERICHOST | NI_NUMERICSERV) != 0)
    return {};
  return wants_port ? port : host;
}

/// A connection to a port of the ephemeral range to which nobody listens may be given that port,
/// and meets itself.
bool is_own_other_end(int fd) {
  sockaddr_storage own{};
  sockaddr_storage peer{};
  socklen_t own_size = sizeof(own);
  socklen_t peer_size = sizeof(peer);
  return ::getsockname(fd, reinterpret_cast<sockaddr*>(&own), &own_size) == 0 &&
         ::getpeername(fd, reinterpret_cast<sockaddr*>(&peer), &peer_size) == 0 &&
         own_size == peer_size && std::memcmp(&own, &peer, own_size) == 0;
}

}  // namespace

Result<UniqueFd> listen_tcp(const Endpoint& endpoint, int backlog) {
  ASSIGN_OR_RETURN(const Addresses addresses, resolve(endpoint, true));
  ASSIGN_OR_RETURN(UniqueFd fd, make_socket(*addresses));
  const int on = 1;
  (void)::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  if (::bind(fd.get(), addresses->ai_addr, addresses->ai_addrlen) != 0 ||
      ::listen(fd.get(), backlog) != 0) {
    if (errno == EADDRINUSE) {
      return Status(StatusCode::kInUse, "endpoint in use: something listens at {} already",
                    endpoint.text());
    }
    return os_error("listen at " + endpoint.text(), errno);
  }
  return fd;
}

Result<UniqueFd> connect_tcp(const Endpoint& endpoint, Deadline deadline) {
  ASSIGN_OR_RETURN(const Addresses addresses, resolve(endpoint, false));
  Status status;
  for (const addrinfo* address = addresses.get(); address != nullptr; address = address->ai_next) {
    auto made = make_socket(*address);
    if (!made.ok()) {
      const bool is_used_up = made.status().code() == StatusCode::kResourceExhausted;
      status = {is_used_up ? StatusCode::kResourceExhausted : StatusCode::kUnavailable, "{}",
                made.status().message()};
      continue;
    }
    UniqueFd fd = std::move(made).value();
    const int on = 1;
    (void)::setsockopt(fd.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    const bool at_once = ::connect(fd.get(), address->ai_addr, address->ai_addrlen) == 0;
    status = at_once ? Status()
             : errno == EINPROGRESS || errno == EINTR
                 ? await_connection(fd.get(), endpoint, deadline)
                 : Status(StatusCode::kUnavailable, "cannot connect to {}: {}", endpoint.text(),
                          os_message(errno));
    if (status.ok() && is_own_other_end(fd.get()))
      status = {StatusCode::kUnavailable, "nobody listens at {}", endpoint.text()};
    if (status.ok()) return fd;
  }
  return status;
}

Result<std::string> bound_port(int fd) {
  sockaddr_storage address{};
  socklen_t size = sizeof(address);
  if (::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size) != 0)
    return os_error("look at a socket", errno);
  return text_of(address, size, true);
}

std::string peer_address(int fd) {
  sockaddr_storage address{};
  socklen_t size = sizeof(address);
  if (::getpeername(fd, reinterpret_cast<sockaddr*>(&address), &size) != 0) return {};
  return text_of(address, size, false);
}

}  // namespace airlock
