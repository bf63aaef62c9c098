#include "gpu_server/metrics.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <prometheus/metric_family.h>
#include <prometheus/text_serializer.h>

#include <memory>
#include <utility>

#include "base/unique_fd.h"
#include "runtime/rpc/endpoint.h"
#include "runtime/rpc/tcp.h"

namespace airlock {
namespace {

constexpr int kBacklog = 64;

/// A host as inet_pton() takes it: of "[::1]" what the brackets enclose.
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

/// `good`, or why not.
Page state_page(std::string path, std::string good, std::function<Status()> state) {
  return {std::move(path), "text/plain", [good = std::move(good), state = std::move(state)] {
            const Status now = state();
            return now.ok() ? PageText{good} : PageText{now.message() + "\n", /*is_bad=*/true};
          }};
}

}  // namespace

Status check_metrics_address(const std::string& address, bool beyond_loopback) {
  return parse_address(address, beyond_loopback).status();
}

Result<std::unique_ptr<MetricsEndpoint>> MetricsEndpoint::start(const std::string& address,
                                                                bool beyond_loopback,
                                                                ServerLook look) {
  ASSIGN_OR_RETURN(Endpoint endpoint, parse_address(address, beyond_loopback));
  auto listener = listen_tcp(endpoint, kBacklog);
  if (!listener.ok()) {
    return Status(listener.status().code() == StatusCode::kInUse ? StatusCode::kInUse
                                                                 : StatusCode::kResourceExhausted,
                  "--metrics {}: {}; give another port", address, listener.status().message());
  }
  ASSIGN_OR_RETURN(endpoint.port, bound_port(listener->get()));
  const auto show_counters = [counters = std::move(look.counters)] {
    return PageText{prometheus::TextSerializer().Serialize(metric_families(counters()))};
  };
  std::vector<Page> pages;
  pages.push_back({"/metrics", "text/plain; version=0.0.4; charset=utf-8", show_counters});
  pages.push_back(state_page("/healthz", "ok\n", std::move(look.health)));
  pages.push_back(state_page("/readyz", "ready\n", std::move(look.readiness)));
  ASSIGN_OR_RETURN(auto server, PageServer::start(std::move(listener).value(), std::move(pages)));
  return std::unique_ptr<MetricsEndpoint>(new MetricsEndpoint(
      std::move(server), fmt::format("http://{}:{}/metrics", endpoint.host, endpoint.port)));
}

}  // namespace airlock
