#include "tools/airlock_stat/source.h"

#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "base/log.h"
#include "base/unique_fd.h"
#include "runtime/json/reader.h"

namespace airlock {
namespace {

/// For a server of this machine that is probably not there.
constexpr std::chrono::milliseconds kLocalPatience{1000};

/// Whether a socket can be bound to `host`: only addresses of this machine can.
bool is_this_machine(std::string host) {
  if (host.size() > 2 && host.front() == '[') host = host.substr(1, host.size() - 2);
  addrinfo hints{};
  hints.ai_socktype = SOCK_DGRAM;
  addrinfo* found = nullptr;
  if (::getaddrinfo(host.c_str(), "0", &hints, &found) != 0) return false;
  const UniqueFd fd(::socket(found->ai_family, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  const bool ours = fd.valid() && ::bind(fd.get(), found->ai_addr, found->ai_addrlen) == 0;
  ::freeaddrinfo(found);
  return ours;
}

/// Whether the server that wrote `endpoint` is the one at `wanted`, of the same port.
bool is_same_server(const std::string& endpoint, const Endpoint& wanted) {
  if (wanted.kind == Endpoint::Kind::kIpc) return true;  // by the file's own path
  auto served = parse_endpoint(endpoint);
  if (!served.ok() || served->kind != Endpoint::Kind::kTcp || served->port != wanted.port)
    return false;
  const std::string& host = served->host;
  const std::string asked = wanted.host == "localhost" ? "127.0.0.1" : wanted.host;
  return host == asked || host == "*" || host == "0.0.0.0" || host == "[::]";
}

}  // namespace

Result<SideReport> read_own_session(std::string_view json) {
  auto read = read_report(json, "the server's statistics");
  if (!read.ok()) return Status(StatusCode::kProtocolError, read.status().message());
  SideReport report;
  report.side = "gpu_server";
  report.host = read->host;
  for (std::string* text : {&report.host.name, &report.host.cpu, &report.host.device})
    *text = printable(*text);
  report.transport = read->transport;
  report.ops = read->ops;
  report.wall_ns = read->wall_ns;
  return report;
}

Result<StatSource> StatSource::connect(const Endpoint& endpoint,
                                       std::shared_ptr<const StreamSecurity> security,
                                       std::chrono::milliseconds timeout) {
  if (security == nullptr) warn_of_exposure(endpoint);
  ConnectOptions connect;
  connect.client = "airlock_stat";
  connect.endpoint = endpoint.text();
  connect.ring.choice = RingChoice::kOff;
  connect.timeout = timeout;
  connect.security = std::move(security);
  StatSource source;
  ASSIGN_OR_RETURN(source.session_, ClientSession::connect(connect));
  source.timeout_ = timeout;
  return source;
}

std::optional<Status> no_server(const Endpoint& endpoint) {
  if (endpoint.kind != Endpoint::Kind::kIpc || ::access(endpoint.path.c_str(), F_OK) == 0)
    return std::nullopt;
  const bool loads = ::access((endpoint.path + ".lock").c_str(), F_OK) == 0;
  return Status(StatusCode::kUnavailable,
                "no server at {}: {}. Start gpu_server there, or give its --endpoint",
                endpoint.text(),
                loads ? "one may still be loading its model" : "there is no socket");
}

Result<CountersSnapshot> look_at_file(const Endpoint& endpoint) {
  if (endpoint.kind == Endpoint::Kind::kTcp && !is_this_machine(endpoint.host))
    return Status(StatusCode::kUnavailable, "{} is on another machine", endpoint.text());
  const std::string path = counters_path(endpoint);
  RETURN_IF_ERROR(check_endpoint_directory(path.substr(0, path.rfind('/')), IfMissing::kRefuse));
  ASSIGN_OR_RETURN(CountersSnapshot snapshot, read_counters_file(path));
  if (is_same_server(snapshot.server.endpoint, endpoint)) return snapshot;
  return Status(StatusCode::kUnavailable, "the server of that port is at {}",
                snapshot.server.endpoint);
}

Result<StatSource> StatSource::open(const StatOptions& options) {
  ASSIGN_OR_RETURN(const Endpoint endpoint, parse_endpoint(options.endpoint));
  ASSIGN_OR_RETURN(const auto security, open_keys(options.keys, options.endpoint));
  const bool ipc = endpoint.kind == Endpoint::Kind::kIpc;
  const auto snapshot = look_at_file(endpoint);
  if (snapshot.ok()) {
    // Where no lock keeps an endpoint to one server, another may serve there without a file.
    if (!ipc && !snapshot->alive) {
      auto asked = connect(endpoint, security, std::min(options.timeout, kLocalPatience));
      if (asked.ok()) return asked;
    }
    StatSource source;
    source.path_ = counters_path(endpoint);
    return source;
  }
  if (snapshot.status().code() != StatusCode::kUnavailable) {
    if (ipc) return snapshot.status();
    log_warning(snapshot.status().message());
  }
  if (const auto absent = no_server(endpoint)) return *absent;
  return connect(endpoint, security, options.timeout);
}

Result<CountersSnapshot> StatSource::look() const {
  if (!session_) return read_counters_file(path_);
  ASSIGN_OR_RETURN(const std::string json,
                   session_->backend().session_stats(Deadline::after(timeout_)));
  CountersSnapshot snapshot;
  ASSIGN_OR_RETURN(snapshot.report, read_own_session(json));
  snapshot.alive = true;
  return snapshot;
}

}  // namespace airlock
