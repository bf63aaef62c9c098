#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <iterator>
#include <memory>
#include <thread>

#include "base/wake_event.h"
#include "gpu_server/load_compute.h"
#include "gpu_server/options.h"
#include "gpu_server/server.h"
#include "runtime/model/model_source.h"
#include "runtime/program/program.h"

namespace airlock {
namespace {

// While a driver starts or a model loads, nobody else reads the signals: a stop then gives the
// endpoint back and ends at once.
class LoadGuard {
 public:
  LoadGuard(int signal_fd, const char* what, std::unique_ptr<Server>& server)
      : watcher_([this, signal_fd, what, &server] { watch(signal_fd, what, server); }) {}
  ~LoadGuard() { done(); }
  LoadGuard(const LoadGuard&) = delete;
  LoadGuard& operator=(const LoadGuard&) = delete;
  void done() {
    done_.store(true, std::memory_order_relaxed);  // the join orders the rest
    wake_.set();
    if (watcher_.joinable()) watcher_.join();
  }

 private:
  void watch(int signal_fd, const char* what, std::unique_ptr<Server>& server) {
    constexpr int kSliceMs = 200;  // only where no descriptor was left for wake_
    while (!done_.load(std::memory_order_relaxed)) {
      pollfd waiting[] = {{signal_fd, POLLIN, 0}, {wake_.fd(), POLLIN, 0}};
      signalfd_siginfo info{};
      if (::poll(waiting, std::size(waiting), kSliceMs) < 1 ||
          ::read(signal_fd, &info, sizeof(info)) != sizeof(info))
        continue;
      if (info.ssi_signo == SIGUSR1) continue;  // nothing was counted yet
      log_info(what);
      server.reset();  // the main thread does not use it before done()
      std::fflush(nullptr);
      ::_exit(0);
    }
  }

  std::atomic<bool> done_{false};
  WakeEvent wake_;
  std::thread watcher_;
};

// A driver may take long to start, and may hang.
Result<DeviceChoice> find_device(const ServerOptions& options, int signal_fd) {
  if (options.device == "cpu") return choose_device(options);
  std::unique_ptr<Server> none;
  const LoadGuard guard(signal_fd, "stopped while the driver was starting", none);
  return choose_device(options);
}

Status run(const ServerOptions& options) {
  signal(SIGPIPE, SIG_IGN);
  const UniqueFd signals = take_signals({SIGINT, SIGTERM, SIGUSR1});
  ASSIGN_OR_RETURN(const DeviceChoice choice, find_device(options, signals.get()));
  // The endpoint first: to load a model and then find it taken would waste minutes.
  ASSIGN_OR_RETURN(std::unique_ptr<Server> server, Server::bind(options));
  LoadGuard guard(signals.get(), "stopped while the model was loading", server);
  ASSIGN_OR_RETURN(std::unique_ptr<ModelSource> source,
                   options.model.empty()
                       ? make_synthetic_model(options.synthetic, options.weights_seed)
                       : open_model_directory(options.model));
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
  using namespace airlock;
  return run_program(
      "gpu_server", [&] { return parse_server_options(argc, argv); }, airlock::run);
}
