#include "gpu_server/metrics.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netdb.h>
#include <netinet/in.h>
#include <prometheus/metric_family.h>
#include <prometheus/text_serializer.h>
#include <sys/socket.h>

#include <cerrno>
#include <memory>
#include <utility>

#include "base/file.h"
#include "base/unique_fd.h"
#include "runtime/rpc/endpoint.h"

namespace airlock {
namespace {

constexpr int kBacklog = 64;

/// A host as inet_pton() and getaddrinfo() take it: of "[::1]" what the brackets enclose.
std::string bare_host(const std::string& host) {
  const bool bracketed = host.size() > 2 && host.front() == '[' && host.back() == ']';
  return bracketed ? host.substr(1, host.size() - 2) : host;
}

Result<Endpoint> parse_address(const std::string& address, bool beyond_loopback) {
  const auto refuse = [&](std::string_view why) {
    return Status(StatusCode::kUsage, "--metrics '{}': {}", address, why);
  };
  constexpr std::string_view kForm = "it is not HOST:PORT, as in 127.0.0.1:9464 or [::1]:9464";
  auto endpoint = parse_endpoint("tcp://" + address);
  if (!endpoint.ok() || endpoint->port == "*") return refuse(kForm);
  if (endpoint->host == "localhost") endpoint->host = "127.0.0.1";
  in6_addr parsed{};
  const std::string& host = endpoint->host;
  const std::string bare = bare_host(host);
  if (::inet_pton(bare == host ? AF_INET : AF_INET6, bare.c_str(), &parsed) != 1)
    return refuse(kForm);
  if (!endpoint->is_loopback() && !beyond_loopback) {
    return refuse(
        "it is reachable from other machines, and anybody there could read what this server "
        "counts: add --insecure-tcp if you accept that");
  }
  return endpoint;
}

/// Where `endpoint` cannot be listened at, what the system said.
Status no_listener(const Endpoint& endpoint, int error) {
  return {error == EADDRINUSE ? StatusCode::kInUse : StatusCode::kResourceExhausted,
          "--metrics {}:{}: {}; give another port", endpoint.host, endpoint.port,
          os_message(error)};
}

/// A socket that listens, and does not block; `endpoint` gets the real port.
Result<UniqueFd> listen_at(Endpoint& endpoint) {
  addrinfo hints{};
  hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV | AI_PASSIVE;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int unknown =
      ::getaddrinfo(bare_host(endpoint.host).c_str(), endpoint.port.c_str(), &hints, &found);
  if (unknown != 0) {
    return Status(StatusCode::kResourceExhausted, "--metrics {}:{}: {}", endpoint.host,
                  endpoint.port, ::gai_strerror(unknown));
  }
  const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> address(found, ::freeaddrinfo);
  UniqueFd fd(::socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  const int on = 1;
  sockaddr_storage bound{};
  socklen_t bound_bytes = sizeof(bound);
  if (!fd.valid() || ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) != 0 ||
      ::bind(fd.get(), address->ai_addr, address->ai_addrlen) != 0 ||
      ::listen(fd.get(), kBacklog) != 0 ||
      ::getsockname(fd.get(), reinterpret_cast<sockaddr*>(&bound), &bound_bytes) != 0) {
    return no_listener(endpoint, errno);
  }
  const in_port_t port = bound.ss_family == AF_INET6
                             ? reinterpret_cast<const sockaddr_in6*>(&bound)->sin6_port
                             : reinterpret_cast<const sockaddr_in*>(&bound)->sin_port;
  endpoint.port = std::to_string(ntohs(port));
  return fd;
}

}  // namespace

Status check_metrics_address(const std::string& address, bool beyond_loopback) {
  return parse_address(address, beyond_loopback).status();
}

Result<std::unique_ptr<MetricsEndpoint>> MetricsEndpoint::start(
    const std::string& address, bool beyond_loopback, std::function<CountersSnapshot()> collect) {
  ASSIGN_OR_RETURN(Endpoint endpoint, parse_address(address, beyond_loopback));
  ASSIGN_OR_RETURN(UniqueFd listener, listen_at(endpoint));
  Page page{"/metrics", "text/plain; version=0.0.4; charset=utf-8", [collect = std::move(collect)] {
              return prometheus::TextSerializer().Serialize(metric_families(collect()));
            }};
  ASSIGN_OR_RETURN(auto server, PageServer::start(std::move(listener), std::move(page)));
  return std::unique_ptr<MetricsEndpoint>(new MetricsEndpoint(
      std::move(server), fmt::format("http://{}:{}/metrics", endpoint.host, endpoint.port)));
}

}  // namespace airlock
