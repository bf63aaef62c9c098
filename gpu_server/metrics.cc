#include "gpu_server/metrics.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netdb.h>
#include <prometheus/collectable.h>
#include <prometheus/exposer.h>
#include <prometheus/metric_family.h>
#include <sys/socket.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <exception>
#include <future>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "base/file.h"
#include "base/log.h"
#include "base/unique_fd.h"

namespace airlock {
namespace {

constexpr std::chrono::milliseconds kPokePause{10};

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

/// Calls use(socket, address) with a new socket; the error number, 0 where it went well.
int with_socket(const Endpoint& endpoint, const std::function<int(int, const addrinfo&)>& use) {
  addrinfo hints{};
  hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV | AI_PASSIVE;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (::getaddrinfo(bare_host(endpoint.host).c_str(), endpoint.port.c_str(), &hints, &found) != 0)
    return 0;
  const UniqueFd fd(::socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  const int error = fd.valid() && use(fd.get(), *found) == 0 ? 0 : errno;
  ::freeaddrinfo(found);
  return error;
}

void poke(const Endpoint& endpoint) {
  (void)with_socket(endpoint, [](int fd, const addrinfo& address) {
    return ::connect(fd, address.ai_addr, address.ai_addrlen);
  });
}

/// The library only says that it failed: asks the system why.
Status explain(const Endpoint& endpoint) {
  const int error = with_socket(endpoint, [](int fd, const addrinfo& address) {
    const int on = 1;
    ::setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    const int bound = ::bind(fd, address.ai_addr, address.ai_addrlen);
    return bound == 0 ? ::listen(fd, 1) : bound;
  });
  const std::string why = error == 0 ? "the HTTP server did not start" : os_message(error);
  return {error == EADDRINUSE ? StatusCode::kInUse : StatusCode::kResourceExhausted,
          "--metrics {}:{}: {}; give another port", endpoint.host, endpoint.port, why};
}

class Collector : public prometheus::Collectable {
 public:
  explicit Collector(std::function<CountersSnapshot()> collect) : collect_(std::move(collect)) {}
  std::vector<prometheus::MetricFamily> Collect() const override {
    // The library's threads have 100 KiB of stack, a handful of our histograms. And what is thrown
    // into them ends the process.
    try {
      return std::async(std::launch::async, [this] { return metric_families(collect_()); }).get();
    } catch (const std::exception& error) {
      log_warning(std::string("no metrics this time: ") + error.what());
      return {};
    }
  }

 private:
  const std::function<CountersSnapshot()> collect_;
};

}  // namespace

Status check_metrics_address(const std::string& address, bool beyond_loopback) {
  return parse_address(address, beyond_loopback).status();
}

Result<std::unique_ptr<MetricsEndpoint>> MetricsEndpoint::start(
    const std::string& address, bool beyond_loopback, std::function<CountersSnapshot()> collect) {
  ASSIGN_OR_RETURN(const Endpoint endpoint, parse_address(address, beyond_loopback));
  try {
    return std::unique_ptr<MetricsEndpoint>(new MetricsEndpoint(endpoint, std::move(collect)));
  } catch (const std::exception&) {
    return explain(endpoint);
  }
}

MetricsEndpoint::MetricsEndpoint(const Endpoint& endpoint,
                                 std::function<CountersSnapshot()> collect)
    : collector_(std::make_shared<Collector>(std::move(collect))),
      exposer_(std::make_unique<prometheus::Exposer>(std::vector<std::string>{
          "listening_ports", endpoint.host + ":" + endpoint.port, "num_threads", "2",
          "request_timeout_ms", "5000", "linger_timeout_ms", "1000"})),
      endpoint_(endpoint) {
  const std::vector<int> ports = exposer_->GetListeningPorts();
  if (!ports.empty()) endpoint_.port = std::to_string(ports.front());
  exposer_->RegisterCollectable(collector_);
}

// The library's listener looks only every 2 s whether it is to end: a connection wakes it.
MetricsEndpoint::~MetricsEndpoint() {
  std::atomic<bool> ended{false};
  std::thread ending([&] {
    exposer_.reset();
    ended.store(true, std::memory_order_relaxed);  // the join orders the rest
  });
  while (!ended.load(std::memory_order_relaxed)) {
    poke(endpoint_);
    std::this_thread::sleep_for(kPokePause);
  }
  ending.join();
}

std::string MetricsEndpoint::url() const {
  return fmt::format("http://{}:{}/metrics", endpoint_.host, endpoint_.port);
}

}  // namespace airlock
