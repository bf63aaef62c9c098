#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <iterator>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>

#include "base/process_limits.h"
#include "base/sink.h"
#include "base/thread.h"
#include "base/wake_event.h"
#include "gpu_server/group_server.h"
#include "gpu_server/load_compute.h"
#include "gpu_server/op_limit.h"
#include "gpu_server/options.h"
#include "gpu_server/page_server.h"
#include "gpu_server/server.h"
#include "runtime/model/model_source.h"
#include "runtime/program/program.h"

namespace airlock {
namespace {

// For the other ranks to end: longer than their silence is let pass, so that it is named.
constexpr std::chrono::seconds kPartingPatience{6};
// The same where an op under way has used up the patience for an end.
constexpr std::chrono::seconds kShortPatience{1};

// While a driver starts or a model loads, nobody else reads the signals: a stop then gives the
// endpoint back and ends at once.
class LoadGuard {
 public:
  /// `give_back` is called before the end. kResourceExhausted: the system has no thread or
  /// descriptor for it.
  static Result<std::unique_ptr<LoadGuard>> start(int signal_fd, const char* what,
                                                  std::function<void()> give_back) {
    auto guard = std::unique_ptr<LoadGuard>(new LoadGuard);
    RETURN_IF_ERROR(guard->wake_.check());
    guard->give_back_ = std::move(give_back);
    ASSIGN_OR_RETURN(guard->watcher_,
                     start_thread("the signals", [self = guard.get(), signal_fd, what] {
                       const Status status = without_exceptions([&]() -> Status {
                         self->watch(signal_fd, what);
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
  void watch(int signal_fd, const char* what) {
    while (!done_.load(std::memory_order_relaxed)) {
      pollfd waiting[] = {{signal_fd, POLLIN, 0}, {wake_.fd(), POLLIN, 0}};
      signalfd_siginfo info{};
      if (::poll(waiting, std::size(waiting), -1) < 1 ||
          ::read(signal_fd, &info, sizeof(info)) != sizeof(info))
        continue;
      if (info.ssi_signo == SIGUSR1) continue;  // nothing was counted yet
      log_info(what);
      give_back_();
      exit_at_once(0);
    }
  }

  std::atomic<bool> done_{false};
  WakeEvent wake_;
  std::function<void()> give_back_;
  std::thread watcher_;
};

constexpr const char* kStoppedAtDriver = "stopped while the driver was starting";

/// A door computes nothing, wherever the others do.
bool asks_driver(const ServerOptions& options) {
  return options.device != "cpu" && !options.door_only;
}

// A driver may take long to start, and may hang.
Result<DeviceChoice> find_device(const ServerOptions& options, std::size_t local_rank,
                                 const std::function<void()>& give_back, int signal_fd) {
  if (!asks_driver(options)) return DeviceChoice{{}, "cpu", false};
  ASSIGN_OR_RETURN(const auto guard, LoadGuard::start(signal_fd, kStoppedAtDriver, give_back));
  return choose_device(options, local_rank);
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
  constexpr std::size_t kDriver = 64;    // a GPU's
  constexpr std::size_t kMostGpus = 16;  // of a machine, before anybody asked the driver
  const auto listed = listed_devices(options.device);
  std::size_t gpus = asks_driver(options) ? 1 : 0;
  if (options.device == "cuda:all" && gpus > 0) gpus = kMostGpus;
  if (listed && gpus > 0) gpus = std::min(listed->size(), kMostGpus);
  return kOwn + Server::kMaxStrangers +
         (kSession + further) * Server::kSessionsPerPlace * options.max_clients + gpus * kDriver;
}

Result<ServedModel> load_model(const ServerOptions& options, const DeviceChoice& choice) {
  ASSIGN_OR_RETURN(std::unique_ptr<ModelSource> source, open_source(options));
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

/// Rank 0 of several, and what is done where the others are lost while it loads: a load takes
/// minutes, and nobody looks meanwhile.
class LeadingRank {
 public:
  LeadingRank(const ServerOptions& options, const GroupLaunch& launch)
      : options_(options), launch_(launch) {}

  /// Whatever ends it ends all.
  Status run(int signal_fd);
  GroupLeader& leader() { return *leader_; }
  std::size_t local_rank() const { return launch_.local_rank; }
  /// While this lives `give_back` is called where a rank is lost, and all end.
  class Loading {
   public:
    Loading(LeadingRank* rank0, std::function<void()> give_back) : rank0_(rank0) {
      set(std::move(give_back));
    }
    ~Loading() { set({}); }
    Loading(const Loading&) = delete;
    Loading& operator=(const Loading&) = delete;

   private:
    void set(std::function<void()> give_back) {
      if (rank0_ == nullptr) return;
      const std::lock_guard lock(rank0_->mutex_);
      rank0_->give_back_ = std::move(give_back);
    }
    LeadingRank* const rank0_;  // null: there are no others
  };
  /// Ends the other ranks in order, or all at once.
  void stop() {
    if (!leader_->stop(kPartingPatience)) leader_->abort(exit_code(StatusCode::kDevice));
  }

 private:
  // The link's thread. The lock stays held: this process ends.
  std::optional<int> take_loss(const Status& status) {
    mutex_.lock();
    if (!give_back_) {
      mutex_.unlock();
      return std::nullopt;
    }
    log_error(status.message());
    give_back_();
    flush_sinks();
    return exit_code(status.code());
  }

  const ServerOptions& options_;
  const GroupLaunch launch_;
  std::mutex mutex_;
  std::function<void()> give_back_;  // guarded by mutex_
  std::unique_ptr<GroupLeader> leader_;
};

/// Until a signal. `rank0`: of several ranks, null without.
Status serve(const ServerOptions& options, LeadingRank* rank0, int signal_fd) {
  std::unique_ptr<Server> server;
  std::mutex handing;  // a signal and the loss of a rank may come at once
  const auto drop = [&] {
    const std::lock_guard lock(handing);
    server.reset();  // the main thread does not use it while it looks for a device or loads
  };
  const auto give_back = [&] {
    drop();
    if (rank0 != nullptr) rank0->stop();
  };
  std::optional<LeadingRank::Loading> loading(std::in_place, rank0, drop);
  ASSIGN_OR_RETURN(
      const DeviceChoice choice,
      find_device(options, rank0 == nullptr ? 0 : rank0->local_rank(), give_back, signal_fd));
  if (!choice.cuda_ordinals.empty() && is_locked_memory_limited()) {
    log_info(
        "locked memory is limited here: where the system counts what the GPU's driver pins "
        "against it, copies are slower; " +
        how_to_lock_memory());
  }
  // The endpoint first: to load a model and then find it taken would waste minutes.
  ASSIGN_OR_RETURN(std::unique_ptr<Server> bound, Server::bind(options));
  {
    const std::lock_guard lock(handing);
    server = std::move(bound);
  }
  ASSIGN_OR_RETURN(const auto guard,
                   LoadGuard::start(signal_fd, "stopped while the model was loading", give_back));
  const auto load = [&]() -> Result<ServedModel> {
    if (rank0 != nullptr) return load_group_model(options, choice, rank0->leader());
    return options.no_model ? serve_products(options, choice) : load_model(options, choice);
  };
  ASSIGN_OR_RETURN(ServedModel served, load());
  guard->done();
  loading.reset();
  if (rank0 != nullptr) {
    server->before_exit([rank0](int code) {
      if (!rank0->leader().stop(kShortPatience)) rank0->leader().abort(code);
    });
  }
  return server->run(std::move(served), signal_fd);
}

Status LeadingRank::run(int signal_fd) {
  {
    ASSIGN_OR_RETURN(const auto guard,
                     LoadGuard::start(signal_fd, "stopped while the ranks were starting", [] {}));
    auto started =
        start_group(options_, [this](const Status& status) { return take_loss(status); });
    if (!started.ok()) {
      // A thread may be stuck in MPI: nothing of it is to be cleaned up under it.
      log_error(started.status().message());
      exit_at_once(exit_code(started.status().code()));
    }
    leader_ = std::move(started).value();
  }
  Status status = without_exceptions([&] { return serve(options_, this, signal_fd); });
  if (status.ok() && leader_->stop(kPartingPatience)) return status;
  if (status.ok())
    status = first_failure(leader_->health(), {StatusCode::kDevice, "a rank did not end"});
  log_error(status.message());
  leader_->abort(exit_code(status.code()));
}

Status work_for_leader(const ServerOptions& options, const GroupLaunch& launch, int signal_fd) {
  set_log_name(fmt::format("gpu_server rank {}", launch.rank));
  GroupWorker worker;
  {
    ASSIGN_OR_RETURN(const auto guard,
                     LoadGuard::start(signal_fd, "stopped while the ranks were starting", [] {}));
    ASSIGN_OR_RETURN(worker, open_group_worker(options, launch));
  }
  return run_group_worker(options, launch, worker, signal_fd);
}

Status run(const ServerOptions& options) {
  signal(SIGPIPE, SIG_IGN);
  ::umask(0077);  // sockets that a library makes are ours alone too, and ours to use
  RETURN_IF_ERROR(ensure_descriptors(needed_descriptors(options)));
  const UniqueFd signals = take_signals({SIGINT, SIGTERM, SIGUSR1});
  // No thread of a server waits for whoever reads its log or its statistics.
  RETURN_IF_ERROR(stderr_sink().start_writer());
  RETURN_IF_ERROR(stdout_sink().start_writer());
  const auto launch = find_launch();
  if (!launch) return serve(options, nullptr, signals.get());
  if (launch->rank > 0) return work_for_leader(options, *launch, signals.get());
  return LeadingRank(options, *launch).run(signals.get());
}

}  // namespace
}  // namespace airlock

int main(int argc, char** argv) {
  using namespace airlock;
  return run_program(
      "gpu_server", [&] { return parse_server_options(argc, argv); }, airlock::run);
}
