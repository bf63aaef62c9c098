#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <iterator>
#include <memory>
#include <thread>

#include "base/process_limits.h"
#include "base/sink.h"
#include "base/thread.h"
#include "base/wake_event.h"
#include "gpu_server/load_compute.h"
#include "gpu_server/op_limit.h"
#include "gpu_server/options.h"
#include "gpu_server/page_server.h"
#include "gpu_server/server.h"
#include "runtime/model/model_source.h"
#include "runtime/program/program.h"

namespace airlock {
namespace {

// While a driver starts or a model loads, nobody else reads the signals: a stop then gives the
// endpoint back and ends at once.
class LoadGuard {
 public:
  /// kResourceExhausted: the system has no thread or descriptor for it.
  static Result<std::unique_ptr<LoadGuard>> start(int signal_fd, const char* what,
                                                  std::unique_ptr<Server>& server) {
    auto guard = std::unique_ptr<LoadGuard>(new LoadGuard);
    RETURN_IF_ERROR(guard->wake_.check());
    ASSIGN_OR_RETURN(guard->watcher_,
                     start_thread("the signals", [self = guard.get(), signal_fd, what, &server] {
                       const Status status = without_exceptions([&]() -> Status {
                         self->watch(signal_fd, what, server);
                         return {};
                       });
                       if (!status.ok()) log_error(status.message());
                     }));
    return guard;
  }
  ~LoadGuard() { done(); }
  LoadGuard(const LoadGuard&) = delete;
  LoadGuard& operator=(const LoadGuard&) = delete;
  void done() {
    done_.store(true, std::memory_order_relaxed);  // the join orders the rest
    wake_.set();
    if (watcher_.joinable()) watcher_.join();
  }

 private:
  LoadGuard() = default;
  void watch(int signal_fd, const char* what, std::unique_ptr<Server>& server) {
    while (!done_.load(std::memory_order_relaxed)) {
      pollfd waiting[] = {{signal_fd, POLLIN, 0}, {wake_.fd(), POLLIN, 0}};
      signalfd_siginfo info{};
      if (::poll(waiting, std::size(waiting), -1) < 1 ||
          ::read(signal_fd, &info, sizeof(info)) != sizeof(info))
        continue;
      if (info.ssi_signo == SIGUSR1) continue;  // nothing was counted yet
      log_info(what);
      server.reset();  // the main thread does not use it before done()
      exit_at_once(0);
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
  ASSIGN_OR_RETURN(const auto guard,
                   LoadGuard::start(signal_fd, "stopped while the driver was starting", none));
  return choose_device(options);
}

// What the server has open when there are as many sessions and strangers as there can be: those
// that are served are not to fail for want of one.
std::size_t needed_descriptors(const ServerOptions& options) {
  // Measured: 12; the metrics' connections, and some more.
  constexpr std::size_t kOwn = 20 + PageServer::kMaxConnections;
  // Measured: 4 with rings; copies of the rings' two beside a welcome, and a door; what it leases
  // of the pool, and copies of that.
  constexpr std::size_t kSession = 8 + 2 * limits::kMaxPoolExtents;
  // Two for each further data socket, and one more.
  const std::size_t further = options.data_sockets == 1 ? 0 : 2 * (limits::kMaxDataSockets - 1) + 1;
  constexpr std::size_t kDriver = 64;  // a GPU's
  return kOwn + Server::kMaxStrangers +
         (kSession + further) * Server::kSessionsPerPlace * options.max_clients +
         (options.device == "cpu" ? 0 : kDriver);
}

Result<ServedModel> load_model(const ServerOptions& options, const DeviceChoice& choice) {
  ASSIGN_OR_RETURN(std::unique_ptr<ModelSource> source,
                   options.model.empty()
                       ? make_synthetic_model(options.synthetic, options.weights_seed)
                       : open_model_directory(options.model));
  ASSIGN_OR_RETURN(LoadedCompute compute, load_compute(options, choice, source.get()));
  if (options.int8 == Int8Making::kPreload) RETURN_IF_ERROR(preload_int8(*source, *compute.model));
  ASSIGN_OR_RETURN(Tensor norms, read_norms(*source));
  ASSIGN_OR_RETURN(std::string digest, source->digest());
  ServedModel served{
      config_to_json(source->config()), std::move(norms),         std::move(digest),
      source->stored_dtype(),           std::move(compute.model), std::move(compute.device)};
  served.max_op_flop = options.max_op_flop.value_or(default_max_op_flop(source->config()));
  served.source = std::move(source);
  return served;
}

Result<ServedModel> serve_products(const ServerOptions& options, const DeviceChoice& choice) {
  ASSIGN_OR_RETURN(LoadedCompute compute, load_compute(options, choice, nullptr));
  ServedModel served;
  served.compute = std::move(compute.model);
  served.device = std::move(compute.device);
  served.max_op_flop = options.max_op_flop.value_or(kProductsMaxOpFlop);
  return served;
}

Status run(const ServerOptions& options) {
  signal(SIGPIPE, SIG_IGN);
  ::umask(0077);  // sockets that a library makes are ours alone too, and ours to use
  RETURN_IF_ERROR(ensure_descriptors(needed_descriptors(options)));
  const UniqueFd signals = take_signals({SIGINT, SIGTERM, SIGUSR1});
  // No thread of a server waits for whoever reads its log or its statistics.
  RETURN_IF_ERROR(stderr_sink().start_writer());
  RETURN_IF_ERROR(stdout_sink().start_writer());
  ASSIGN_OR_RETURN(const DeviceChoice choice, find_device(options, signals.get()));
  // The endpoint first: to load a model and then find it taken would waste minutes.
  ASSIGN_OR_RETURN(std::unique_ptr<Server> server, Server::bind(options));
  ASSIGN_OR_RETURN(const auto guard,
                   LoadGuard::start(signals.get(), "stopped while the model was loading", server));
  ASSIGN_OR_RETURN(ServedModel served, options.no_model ? serve_products(options, choice)
                                                        : load_model(options, choice));
  guard->done();
  return server->run(std::move(served), signals.get());
}

}  // namespace
}  // namespace airlock

int main(int argc, char** argv) {
  using namespace airlock;
  return run_program(
      "gpu_server", [&] { return parse_server_options(argc, argv); }, airlock::run);
}
