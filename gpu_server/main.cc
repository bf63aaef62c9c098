#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <memory>
#include <thread>

#include "base/log.h"
#include "base/unique_fd.h"
#include "gpu_server/load_compute.h"
#include "gpu_server/options.h"
#include "gpu_server/server.h"
#include "runtime/model/model_source.h"

namespace airlock {
namespace {

// Blocked in every thread and read from a descriptor: no handler of ours ever interrupts anything.
UniqueFd take_signals() {
  sigset_t signals;
  sigemptyset(&signals);
  for (int number : {SIGINT, SIGTERM, SIGUSR1}) sigaddset(&signals, number);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  signal(SIGPIPE, SIG_IGN);
  signal(SIGXFSZ, SIG_IGN);  // a file that may grow no more is an error of that write
  return UniqueFd(signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
}

// While a model loads, nobody else reads the signals: a stop then gives the endpoint back and ends
// at once.
class LoadGuard {
 public:
  LoadGuard(int signal_fd, std::unique_ptr<Server>& server)
      : watcher_([this, signal_fd, &server] { watch(signal_fd, server); }) {}
  ~LoadGuard() { done(); }
  LoadGuard(const LoadGuard&) = delete;
  LoadGuard& operator=(const LoadGuard&) = delete;
  void done() {
    done_.store(true, std::memory_order_relaxed);  // the join orders the rest
    if (watcher_.joinable()) watcher_.join();
  }

 private:
  void watch(int signal_fd, std::unique_ptr<Server>& server) {
    constexpr int kSliceMs = 20;
    while (!done_.load(std::memory_order_relaxed)) {
      pollfd waiting{signal_fd, POLLIN, 0};
      signalfd_siginfo info{};
      if (::poll(&waiting, 1, kSliceMs) != 1 ||
          ::read(signal_fd, &info, sizeof(info)) != sizeof(info))
        continue;
      if (info.ssi_signo == SIGUSR1) continue;  // nothing was counted yet
      log_info("stopped while the model was loading");
      server.reset();  // the main thread does not use it before done()
      std::fflush(nullptr);
      ::_exit(0);
    }
  }

  std::atomic<bool> done_{false};
  std::thread watcher_;
};

Result<std::unique_ptr<ModelSource>> open_model(const ServerOptions& options) {
  return options.model.empty() ? make_synthetic_model(options.synthetic, options.weights_seed)
                               : open_model_directory(options.model);
}

Status run(const ServerOptions& options) {
  const UniqueFd signals = take_signals();
  ASSIGN_OR_RETURN(const DeviceChoice choice, choose_device(options));
  // The endpoint first: to load a model and then find it taken would waste minutes.
  ASSIGN_OR_RETURN(std::unique_ptr<Server> server, Server::bind(options));
  LoadGuard guard(signals.get(), server);
  ASSIGN_OR_RETURN(std::unique_ptr<ModelSource> source, open_model(options));
  ASSIGN_OR_RETURN(LoadedCompute compute, load_compute(options, choice, *source));
  ASSIGN_OR_RETURN(Tensor norms, read_norms(*source));
  ASSIGN_OR_RETURN(std::string digest, source->digest());
  ServedModel served{
      config_to_json(source->config()), std::move(norms),         digest,
      source->stored_dtype(),           std::move(compute.model), std::move(compute.device)};
  source.reset();
  guard.done();
  return server->run(std::move(served), signals.get());
}

}  // namespace
}  // namespace airlock

int main(int argc, char** argv) {
  airlock::set_log_name("gpu_server");
  auto options = airlock::parse_server_options(argc, argv);
  airlock::Status status = options.status();
  if (options.ok()) {
    if (!options->has_value()) return 0;
    status = airlock::run(**options);
  }
  if (!status.ok()) airlock::log_error(status.message());
  return airlock::exit_code(status.code());
}
