#include "tee_runner/serve/http_server.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/ssl/context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <condition_variable>
#include <mutex>
#include <span>
#include <thread>
#include <utility>
#include <vector>

#include "base/random.h"
#include "base/thread.h"
#include "runtime/rpc/endpoint.h"
#include "runtime/rpc/tcp.h"
#include "tee_runner/serve/connection.h"

namespace airlock {

namespace asio = boost::asio;
using Tcp = asio::ip::tcp;

namespace {

constexpr std::size_t kWorkers = 2;
constexpr int kBacklog = 256;
/// Between two looks at the deadlines, while there are connections.
constexpr std::chrono::milliseconds kTick{100};
/// After accept() failed for want of something.
constexpr std::chrono::milliseconds kPause{100};
/// Until those whose answers were cancelled have been told.
constexpr std::chrono::seconds kLastWords{2};

constexpr std::string_view kFull =
    "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nRetry-After: 1\r\n"
    "Connection: close\r\n\r\n";

bool is_v6(const std::string& host) { return host.find(':') != std::string::npos; }

std::string url_host(const std::string& host) { return is_v6(host) ? "[" + host + "]" : host; }

}  // namespace

struct HttpServer::Impl {
  Impl(const HttpSettings& settings, std::shared_ptr<const ServedModel> model, Engine& engine)
      : state(settings, std::move(model), engine), acceptor(state.io), tick(state.io) {}

  Status start(std::string& url);
  Status start_threads();
  void run(asio::io_context& io);
  void accept();
  void on_accepted(Tcp::socket socket);
  bool make_room();
  void schedule_tick();
  std::vector<std::shared_ptr<Connection>> clients() const {
    return {state.connections.begin(), state.connections.end()};
  }
  /// On the network's thread, and waits for it.
  template <typename Body>
  void on_network(const Body& body);
  bool wait_until_told(Deadline deadline);
  void stop();

  ServeState state;
  Tcp::acceptor acceptor;
  asio::steady_timer tick;
  bool ticking = false;
  asio::ssl::context tls{asio::ssl::context::tls_server};
  asio::executor_work_guard<asio::io_context::executor_type> io_guard{state.io.get_executor()};
  asio::executor_work_guard<asio::io_context::executor_type> work_guard{state.work.get_executor()};
  std::thread network;
  std::vector<std::thread> workers;
};

/// A thread's root.
void HttpServer::Impl::run(asio::io_context& io) {
  while (!io.stopped()) {
    const Status status = without_exceptions([&]() -> Status {
      io.run();
      return {};
    });
    if (!status.ok()) state.failures.log(LogLevel::kWarning, "serve: " + status.message());
  }
}

Status HttpServer::Impl::start(std::string& url) {
  const HttpSettings& settings = state.settings;
  if (settings.tls) RETURN_IF_ERROR(configure(tls, *settings.tls));
  RETURN_IF_ERROR(fill_random(std::span(&state.random_state, 1)));
  Endpoint endpoint{.kind = Endpoint::Kind::kTcp,
                    .path = {},
                    .host = url_host(settings.host),
                    .port = std::to_string(settings.port)};
  auto listener = listen_tcp(endpoint, kBacklog);
  if (!listener.ok()) {
    return {listener.status().code(), "--listen {}:{}: {}", endpoint.host, endpoint.port,
            listener.status().message()};
  }
  ASSIGN_OR_RETURN(endpoint.port, bound_port(listener->get()));
  boost::system::error_code error;
  acceptor.assign(is_v6(settings.host) ? Tcp::v6() : Tcp::v4(), listener->get(), error);
  if (error)
    return {StatusCode::kInternal, "cannot take the listening socket: {}", error.message()};
  static_cast<void>(listener->release());
  url = fmt::format("{}://{}:{}", settings.tls ? "https" : "http", endpoint.host, endpoint.port);
  accept();
  return start_threads();
}

Status HttpServer::Impl::start_threads() {
  ASSIGN_OR_RETURN(network, start_thread("serve's network", [this] { run(state.io); }));
  for (std::size_t i = 0; i < kWorkers; ++i) {
    ASSIGN_OR_RETURN(std::thread worker,
                     start_thread("serve's prompts", [this] { run(state.work); }));
    workers.push_back(std::move(worker));
  }
  return {};
}

void HttpServer::Impl::accept() {
  if (!acceptor.is_open()) return;
  acceptor.async_accept([this](const boost::system::error_code& error, Tcp::socket socket) {
    if (!acceptor.is_open()) return;
    const Status status = without_exceptions([&]() -> Status {
      if (!error) on_accepted(std::move(socket));
      return {};
    });
    const bool of_the_client =
        error == asio::error::connection_aborted || error == asio::error::interrupted || !error;
    if (of_the_client && status.ok()) return accept();
    state.failures.log(LogLevel::kWarning, "serve: cannot take a connection: " +
                                               (error ? error.message() : status.message()));
    auto pause = std::make_shared<asio::steady_timer>(state.io, kPause);
    pause->async_wait([this, pause](const boost::system::error_code&) { accept(); });
  });
}

/// Whether one more client can be held; for it goes one that is between two requests, else one
/// whose completion was not let in (yet), of these the oldest.
bool HttpServer::Impl::make_room() {
  if (state.connections.size() < state.settings.max_connections) return true;
  std::shared_ptr<Connection> least;
  for (const auto& each : state.connections) {
    if (!least ||
        std::pair(each->worth(), each->since_ns()) < std::pair(least->worth(), least->since_ns()))
      least = each;
  }
  if (!least || least->worth() == Connection::Worth::kMuch) return false;
  least->close(CancelCause::kClientLeft);
  return true;
}

void HttpServer::Impl::on_accepted(Tcp::socket socket) {
  boost::system::error_code ignored;
  socket.non_blocking(true, ignored);
  if (!make_room()) {
    state.metrics.count_refused_connection();
    // As much as goes at once; a client of TLS could not read it.
    if (!state.settings.tls) socket.write_some(asio::buffer(kFull), ignored);
    socket.shutdown(Tcp::socket::shutdown_send, ignored);
    return;
  }
  state.metrics.count_connection();
  socket.set_option(Tcp::no_delay(true), ignored);
  socket.set_option(asio::socket_base::send_buffer_size(state.settings.send_buffer_bytes), ignored);
  auto stream =
      state.settings.tls ? tls_stream(std::move(socket), tls) : plain_stream(std::move(socket));
  const auto connection = std::make_shared<Connection>(state, std::move(stream));
  state.connections.insert(connection);
  connection->start();
  schedule_tick();
}

void HttpServer::Impl::schedule_tick() {
  if (ticking || state.connections.empty()) return;
  ticking = true;
  tick.expires_after(kTick);
  tick.async_wait([this](const boost::system::error_code& error) {
    ticking = false;
    if (error) return;
    for (const auto& each : clients()) each->check();
    schedule_tick();
  });
}

template <typename Body>
void HttpServer::Impl::on_network(const Body& body) {
  std::mutex mutex;
  std::condition_variable done;
  bool is_done = false;
  asio::post(state.io, [&] {
    const Status status = without_exceptions([&]() -> Status {
      body();
      return {};
    });
    if (!status.ok()) state.failures.log(LogLevel::kWarning, "serve: " + status.message());
    const std::lock_guard lock(mutex);
    is_done = true;
    done.notify_one();
  });
  std::unique_lock lock(mutex);
  done.wait(lock, [&] { return is_done; });
}

/// No client whose completion was let in is owed anything any more; who asks how the server is, and
/// who is refused, holds nothing up.
bool HttpServer::Impl::wait_until_told(Deadline deadline) {
  for (;;) {
    bool all_told = false;
    on_network([&] {
      all_told =
          std::ranges::none_of(state.connections, [](const auto& each) { return each->is_owed(); });
    });
    if (all_told || deadline.expired()) return all_told;
    std::this_thread::sleep_for(
        std::min<std::chrono::nanoseconds>(deadline.remaining(), std::chrono::milliseconds(20)));
  }
}

void HttpServer::Impl::stop() {
  if (network.joinable()) {
    on_network([&] {
      boost::system::error_code ignored;
      acceptor.close(ignored);
      tick.cancel();
      for (const auto& each : clients()) each->close(CancelCause::kShutdown);
    });
  }
  state.work.stop();
  for (std::thread& worker : workers) worker.join();
  state.io.stop();
  if (network.joinable()) network.join();
}

HttpServer::HttpServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

Result<std::unique_ptr<HttpServer>> HttpServer::start(const HttpSettings& settings,
                                                      std::shared_ptr<const ServedModel> model,
                                                      Engine& engine) {
  std::unique_ptr<HttpServer> server(
      new HttpServer(std::make_unique<Impl>(settings, std::move(model), engine)));
  RETURN_IF_ERROR(
      without_exceptions([&]() -> Status { return server->impl_->start(server->url_); }));
  return server;
}

HttpServer::~HttpServer() { impl_->stop(); }

void HttpServer::leave() {
  impl_->on_network([&] { impl_->state.leaving = true; });
}

bool HttpServer::drain(Deadline deadline) {
  impl_->on_network([&] {
    impl_->state.leaving = impl_->state.draining = true;
    for (const auto& each : impl_->clients()) each->drain();
  });
  if (impl_->wait_until_told(deadline)) return true;
  impl_->on_network([&] {
    for (const auto& each : impl_->clients()) each->cancel_answer();
  });
  impl_->wait_until_told(Deadline::after(kLastWords));
  return false;
}

}  // namespace airlock
