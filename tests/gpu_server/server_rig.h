#pragma once

#include <arpa/inet.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <memory>
#include <string>
#include <thread>
#include <utility>

#include "base/check.h"
#include "base/deadline.h"
#include "base/unique_fd.h"
#include "gpu_server/server.h"
#include "runtime/cpu/cpu_model.h"
#include "runtime/model/model_source.h"
#include "runtime/rpc/client.h"
#include "tests/support/memory_model.h"
#include "tests/support/temp_dir.h"

namespace airlock::testing {

/// A port that was free a moment ago.
inline std::string free_tcp_endpoint() {
  const UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  CHECK(::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), size) == 0);
  CHECK(::getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address), &size) == 0);
  return "tcp://127.0.0.1:" + std::to_string(ntohs(address.sin_port));
}

/// What one GET gives, header and body; `url` is one of a MetricsEndpoint.
inline std::string http_get(const std::string& url, const std::string& path) {
  const std::string rest = url.substr(std::string("http://127.0.0.1:").size());
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(static_cast<std::uint16_t>(std::stoi(rest)));
  const UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  CHECK(::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0);
  const std::string request = "GET " + path + " HTTP/1.0\r\n\r\n";
  CHECK(::write(fd.get(), request.data(), request.size()) == static_cast<ssize_t>(request.size()));
  std::string answer;
  char piece[4096];
  for (ssize_t got = 0; (got = ::read(fd.get(), piece, sizeof(piece))) > 0;)
    answer.append(piece, static_cast<std::size_t>(got));
  return answer;
}

/// The same, once it has this status, or after a minute.
inline std::string http_await(const std::string& url, const std::string& path,
                              const std::string& status) {
  const Deadline give_up = Deadline::after(std::chrono::seconds(60));
  for (;;) {
    std::string answer = http_get(url, path);
    if (answer.find(" " + status + " ") != std::string::npos || give_up.expired()) return answer;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
}

/// A gpu_server in a thread, told to stop as by SIGTERM.
class RunningServer {
 public:
  RunningServer(const ServerOptions& options, const MemoryModel& model)
      : RunningServer(
            options, model,
            CpuModel::create(model, {.dtype = DType::kF32, .threads = 1, .progress = {}}).value()) {
  }
  /// `compute` computes what the clients ask for (shared: the sessions hold it too).
  RunningServer(const ServerOptions& options, const MemoryModel& model,
                std::shared_ptr<ComputeModel> compute)
      : RunningServer(options, ServedModel{R"({"model_type":"llama"})", read_norms(model).value(),
                                           model.digest().value(), model.stored_dtype(),
                                           std::move(compute), std::nullopt, 0, outlives(model)}) {}
  RunningServer(const ServerOptions& options, ServedModel served) {
    int fds[2];
    CHECK(::pipe2(fds, O_CLOEXEC | O_NONBLOCK) == 0);
    signals_ = UniqueFd(fds[0]);
    signal_writer_ = UniqueFd(fds[1]);
    server_ = Server::bind(options).value();
    thread_ = std::thread([this, moved = std::move(served)]() mutable {
      status_ = server_->run(std::move(moved), signals_.get());
    });
  }
  ~RunningServer() { (void)stop(); }
  /// Not owned: the test's model outlives its server.
  static std::shared_ptr<const ModelSource> outlives(const MemoryModel& model) {
    return {std::shared_ptr<const ModelSource>(), &model};
  }
  void signal(int number) {
    signalfd_siginfo info{};
    info.ssi_signo = static_cast<std::uint32_t>(number);
    CHECK(::write(signal_writer_.get(), &info, sizeof(info)) == static_cast<ssize_t>(sizeof(info)));
  }
  /// What run() returned.
  Status stop() {
    if (thread_.joinable()) signal(SIGTERM);
    return wait();
  }
  /// The same of a server that ends by itself.
  Status wait() {
    if (thread_.joinable()) thread_.join();
    server_.reset();
    return status_;
  }

 private:
  UniqueFd signals_;
  UniqueFd signal_writer_;
  std::unique_ptr<Server> server_;
  Status status_;
  std::thread thread_;
};

}  // namespace airlock::testing
