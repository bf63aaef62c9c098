#include "gpu_server/server.h"

#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <iterator>
#include <vector>

#include "base/available_memory.h"
#include "base/log.h"
#include "base/sink.h"
#include "base/thread.h"
#include "runtime/program/program.h"
#include "shm/ring_memory.h"
#include "shm/segment_room.h"

namespace airlock {

namespace {

constexpr std::chrono::seconds kSameSignal{2};
constexpr std::chrono::seconds kShutdownGrace{5};  // for the ops under way
// The control thread turns at least every kSignInterval.
constexpr std::chrono::seconds kControlStall{5};
constexpr std::chrono::hours kNever{24 * 365 * 100};
constexpr std::chrono::seconds kLook{60};

}  // namespace

Server::Server(const ServerOptions& options, Endpoint endpoint)
    : options_(options), endpoint_(std::move(endpoint)) {
  const auto since_1970 = std::chrono::system_clock::now().time_since_epoch();
  info_.start_ns = now_ns();
  info_.start_unix_ns = static_cast<std::uint64_t>(
      std::chrono::duration_cast<std::chrono::nanoseconds>(since_1970).count());
  info_.max_clients = options_.max_clients;
}

Server::~Server() {
  stop_control();
  release_endpoint();
}

Status Server::take_endpoint() {
  RETURN_IF_ERROR(wake_.check());
  RETURN_IF_ERROR(device_lost_.check());
  RETURN_IF_ERROR(drained_.check());
  RETURN_IF_ERROR(parse_endpoint(endpoint_.text()).status());  // the default one's length
  const bool ipc = endpoint_.kind == Endpoint::Kind::kIpc;
  if (!options_.key.empty()) {
    if (ipc) {
      return {StatusCode::kUsage, "--authorized-keys and --key are of tcp://, and --endpoint is {}",
              endpoint_.text()};
    }
    ASSIGN_OR_RETURN(const SecretKey own, SecretKey::read(options_.key));
    ASSIGN_OR_RETURN(std::vector<PublicKey> keys, read_public_keys(options_.authorized_keys));
    log_info(fmt::format("this server's key is {}; {} keys are let in", own.public_key().line(),
                         keys.size()));
    ASSIGN_OR_RETURN(security_, make_tls(own, {std::move(keys), options_.authorized_keys}));
  } else if (!endpoint_.is_loopback() && !options_.insecure_tcp) {
    return {StatusCode::kUsage,
            "--endpoint {} is reachable from other machines, and nothing is encrypted or "
            "authenticated: give --authorized-keys and --key (airlock_keygen), or --insecure-tcp "
            "if you accept that",
            endpoint_.text()};
  }
  if (ipc) {
    RETURN_IF_ERROR(session_socket_path(endpoint_.path, 0).status());
    RETURN_IF_ERROR(check_endpoint_directory(endpoint_.directory(), IfMissing::kCreate));
    ASSIGN_OR_RETURN(lock_, EndpointLock::acquire(endpoint_.path));
    sweep_session_sockets(endpoint_.path);
    // At once and not at `ready`: until then airlock_stat would show the dead server's figures.
    // What else lies there open_counters() reports.
    (void)remove_dead_counters_file(counters_path(endpoint_));
  }
  if (endpoint_.host == "localhost") endpoint_.host = "127.0.0.1";
  ring_on_ =
      options_.ring.choice == RingChoice::kOn || (options_.ring.choice == RingChoice::kAuto && ipc);
  geometry_ = {options_.ring.slot_count, options_.ring.slot_bytes};
  sweep_stale_segments();
  const std::string shared = default_endpoint().directory();
  if (check_endpoint_directory(shared, IfMissing::kRefuse).ok()) sweep_tcp_counters_files(shared);
  if (!ring_on_) return {};
  return check_room(ipc);
}

// For one session's two rings; what all that may be would take is worth a warning.
Status Server::check_room(bool ipc) const {
  ASSIGN_OR_RETURN(const std::size_t segment_bytes, ring_segment_bytes(geometry_));
  RETURN_IF_ERROR(ipc ? check_sealed_room(segment_bytes, 2, "--ring off")
                      : check_segment_room(segment_bytes, 2, "--ring off"));
  const std::size_t count = options_.max_clients;
  const std::uint64_t need = 2 * std::uint64_t{segment_bytes} * count;
  const auto memory = memory_available_bytes();
  for (const std::string& advice :
       {ipc ? std::string() : segment_room_advice(need, free_shm_bytes(), count),
        sealed_room_advice(need, memory, count)}) {
    if (!advice.empty()) log_warning(advice);
  }
  return {};
}

// Only addresses are taken, unless all of it is to be there at start.
Status Server::open_pool() {
  const PoolOptions& wanted = options_.pool;
  // Its memory crosses as descriptors, and its places in a ring's headers.
  const bool usable = ring_on_ && endpoint_.kind == Endpoint::Kind::kIpc;
  if (wanted.mode == PoolMode::kShape && !usable) {
    log_warning("no pool: --pool needs rings over ipc; large tensors go by ZeroMQ");
  }
  if (wanted.mode == PoolMode::kOff || !usable) return {};
  PoolShape shape = wanted.shape;
  const auto available = memory_available_bytes();
  if (wanted.mode == PoolMode::kAuto) {
    const auto profile = choose_profile(available.value_or(0));
    if (!profile) {
      log_info(
          fmt::format("no pool: the smallest has {} bytes, more than 1/{} of the {} bytes of "
                      "memory that are available; large tensors go by ZeroMQ",
                      shape_of(PoolProfile::kLow).bytes(), kAutoShare, available.value_or(0)));
      return {};
    }
    shape = shape_of(*profile);
  } else if (available && shape.bytes() > *available) {
    return {StatusCode::kResourceExhausted,
            "a pool of {} bytes ({}) is more than the {} bytes of memory that are available: use a "
            "smaller --pool, or --pool off",
            shape.bytes(), shape.to_string(), *available};
  }
  auto made = PoolRegion::create(shape, wanted.commit);
  if (!made.ok() && wanted.mode == PoolMode::kAuto) {
    log_info("no pool: " + made.status().message() + "; large tensors go by ZeroMQ");
    return {};
  }
  ASSIGN_OR_RETURN(pool_, std::move(made));
  log_info(fmt::format("a pool of {}; each client has at most {} in, {} out, {} scratch",
                       shape.to_string(), shape.quota(PoolUse::kInput),
                       shape.quota(PoolUse::kOutput), shape.quota(PoolUse::kScratch)));
  const bool has_room = shape.quota(PoolUse::kInput) * shape.slot_bytes >= geometry_.slot_bytes;
  if (!options_.no_model && !has_room) {
    log_warning(
        fmt::format("a tensor that is too large for a slot of the ring ({} bytes) has no room in a "
                    "client's part of the pool: use a larger --pool or --pool-slot-bytes",
                    geometry_.slot_bytes));
  }
  return {};
}

Status Server::open_control() {
  ASSIGN_OR_RETURN(auto listener, ControlListener::listen(endpoint_, security_.get()));
  endpoint_ = listener.endpoint();
  listener_.emplace(std::move(listener));
  return endpoint_.kind == Endpoint::Kind::kIpc ? lock_.own_socket() : Status();
}

// What the server knows of itself by now, and the place where it counts: without a file nobody can
// look from outside, and that is no reason not to serve.
Status Server::open_counters() {
  ServerInfo info = info_;
  const BackendInfo& backend = model_->compute->info();
  info.model = options_.model.empty() ? options_.synthetic : options_.model;
  if (options_.no_model) info.model = "none";
  info.endpoint = endpoint_.text();
  info.digest = model_->digest;
  info.dtype = name_of(backend.dtype);
  info.host = describe_host(backend.device);
  info.host.gpu = model_->device;
  info.threads = options_.threads;
  info.slot_count = geometry_.slot_count;
  info.slot_bytes = geometry_.slot_bytes;
  info.ring_on = ring_on_;
  if (pool_) info.pool = pool_->shape();
  info.pool_commit = options_.pool.commit;
  static_assert(kSessionsPerPlace * limits::kMaxClients <= counters_layout::kMaxBlocks);
  const std::size_t block_count = kSessionsPerPlace * options_.max_clients;
  const auto make_file = [&]() -> Result<std::unique_ptr<CountersFile>> {
    if (endpoint_.kind == Endpoint::Kind::kTcp) {
      RETURN_IF_ERROR(check_endpoint_directory(default_endpoint().directory(), IfMissing::kCreate));
    }
    return CountersFile::create(counters_path(endpoint_), info, block_count);
  };
  auto counters = make_file();
  if (!counters.ok()) {
    log_warning(fmt::format("no counters file, airlock_stat cannot look at this server: {}",
                            counters.status().message()));
    counters = CountersFile::in_memory(info, block_count);
    RETURN_IF_ERROR(counters.status());
  }
  const std::lock_guard lock(mutex_);
  info_ = std::move(info);
  counters_ = std::move(counters).value();
  return {};
}

// The file was cut short: the counts go on, from zero or less, where nobody else sees them.
void Server::check_counters() {
  if (counters_lost_ || !counters_->damaged()) return;
  counters_lost_ = true;
  log_warning(
      "the counters file was cut short by somebody: what was counted so far may be lost, and "
      "airlock_stat cannot look at this server any more");
  const std::lock_guard lock(mutex_);
  counters_->remove();
}

// Somebody has removed or replaced the socket or its directory: whoever is connected is served on.
void Server::check_endpoint() {
  if (endpoint_lost_) return;
  if (const Status status = lock_.still_ours(); !status.ok()) {
    endpoint_lost_ = true;
    log_error(status.message() + "; no new client finds this server: start it again");
  }
}

// The names first, while the files are open and so can be told from another server's.
void Server::release_endpoint() {
  if (counters_) counters_->remove();
  lock_.remove_files();
  listener_.reset();
}

void Server::stop_control() {
  stopping_.store(true, std::memory_order_release);
  wake_.set();
  if (!control_thread_.joinable()) return;
  const Deadline grace = Deadline::after(kShutdownGrace);
  while (!all_ended_.load(std::memory_order_acquire) && !grace.expired()) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  const bool clean = all_ended_.exchange(true, std::memory_order_acq_rel);
  wake_.set();
  control_thread_.join();
  if (clean) return;
  // An op under way cannot be interrupted: what it would answer nobody reads any more.
  log_warning("an op was still under way after 5 s: ending without it");
  for (const Client& client : clients_) {
    if (client.session) client.session->remove_files();
  }
  counters_->remove();
  lock_.remove_files();
  (void)publish(Deadline::after(OutputFile::kLastWait));
  const Status device = device_status();
  if (!device.ok()) log_error(device.message());
  if (before_exit_) before_exit_(exit_code(device.code()));
  exit_at_once(exit_code(device.code()));
}

SideReport Server::report() const {
  const std::lock_guard lock(mutex_);
  SideReport report = describe_server(info_);
  report.wall_ns = now_ns() - info_.start_ns;
  report.sessions.assign(ended_.begin(), ended_.end());
  for (const Client& client : clients_) {
    if (client.session) report.sessions.push_back(client.session->report());
  }
  for (const SessionReport& session : report.sessions) report.merge(session);
  return report;
}

// Any thread; also while the model is loading.
CountersSnapshot Server::metrics() const {
  CountersSnapshot metrics;
  const std::lock_guard lock(mutex_);
  metrics.server = info_;
  metrics.sessions_active = active_sessions();
  if (!counters_) return metrics;
  const CounterSums sums = counters_->sums();
  metrics.report.transport = sums.transport;
  metrics.report.ops = sums.ops;
  take_live(counters_->live(), metrics);
  return metrics;
}

Status Server::publish(Deadline end) {
  const SideReport current = report();
  // Who read as far as "ready" and went away wants no table.
  if (!stdout_has_no_reader()) stdout_sink().write(report_table(current));
  return first_failure(stats_json_ ? stats_json_->write(report_json(current), end) : Status(),
                       stdout_has_no_reader() ? Status() : stdout_sink().refusal("stdout"));
}

// Any thread, as readiness(). While the model is loading nobody has said how long that may take.
Status Server::health() const {
  const auto age = control_pulse_.age();
  if (!is_serving_.load(std::memory_order_acquire) || age < kControlStall) return {};
  return {StatusCode::kInternal, "the control thread has not moved for {:.1f} s",
          std::chrono::duration<double>(age).count()};
}

Status Server::readiness() const {
  RETURN_IF_ERROR(device_status());
  const auto not_ready = [](const char* why) { return Status(StatusCode::kUnavailable, why); };
  if (draining_.load(std::memory_order_acquire) || stopping_.load(std::memory_order_acquire))
    return not_ready("shutting down");
  if (!is_serving_.load(std::memory_order_acquire))
    return not_ready("starting: the model is not loaded yet");
  if (endpoint_lost_.load(std::memory_order_relaxed))
    return not_ready("the endpoint was removed or replaced: no new client finds this server");
  return {};
}

// Those that are served are served on; whoever else comes is refused.
Status Server::drain(int signal_fd) {
  draining_.store(true, std::memory_order_release);
  same_signal_until_ = Deadline::after(kSameSignal);
  if (options_.drain_seconds <= 0) return {};
  wake_.set();
  log_info(fmt::format("no new sessions from here on; those that there are have {} s to leave",
                       options_.drain_seconds));
  return wait_for_signals(signal_fd, Deadline::after(from_seconds(options_.drain_seconds)));
}

// Of a group each rank that is signalled tells rank 0, which signals itself; and a launcher signals
// rank 0 too.
bool Server::is_repeated(const signalfd_siginfo& signal) const {
  if (options_.ranks < 2 || !draining_.load(std::memory_order_acquire)) return false;
  return !same_signal_until_.expired() || signal.ssi_pid == static_cast<std::uint32_t>(::getpid());
}

// Ok: a signal asked for the end, no session is left of those that were drained, or it is
// `deadline`.
Status Server::wait_for_signals(int signal_fd, Deadline deadline) {
  const bool periodic = options_.stats_interval_s > 0;
  const auto interval = from_seconds(options_.stats_interval_s);
  Deadline next = Deadline::after(interval);
  // A file that cannot be written is no reason to leave the clients; at the end it is said with the
  // exit code. Nor may one that stands still keep a signal waiting.
  const auto publish_now = [this] {
    const Status status = publish(Deadline::after(OutputFile::kPassingWait));
    if (!status.ok()) log_warning(status.message());
  };
  for (;;) {
    pollfd waiting[] = {
        {signal_fd, POLLIN, 0}, {device_lost_.fd(), POLLIN, 0}, {drained_.fd(), POLLIN, 0}};
    const auto left = deadline.slice(periodic ? next.remaining() : kLook).remaining();
    ::poll(waiting, std::size(waiting),
           static_cast<int>(std::chrono::ceil<std::chrono::milliseconds>(left).count()));
    signalfd_siginfo info{};
    if (::read(signal_fd, &info, sizeof(info)) == static_cast<ssize_t>(sizeof(info))) {
      if (info.ssi_signo == SIGUSR1) {
        publish_now();
      } else if (!is_repeated(info)) {
        return {};
      }
    }
    RETURN_IF_ERROR(device_status());
    if (deadline.expired() || waiting[2].revents != 0) return {};
    if (periodic && next.expired()) {
      next = Deadline::after(interval);
      publish_now();
    }
  }
}

Status Server::run(ServedModel model, int signal_fd) {
  model_ = std::make_unique<ServedModel>(std::move(model));
  // A share of what the model has left.
  if (options_.pool.mode == PoolMode::kAuto) RETURN_IF_ERROR(open_pool());
  RETURN_IF_ERROR(open_control());
  RETURN_IF_ERROR(open_counters());
  log_info(fmt::format("a host's program: it sees {} (docs/THREAT_MODEL.md)",
                       options_.no_model ? "all arrays of its clients"
                                         : "token ids and every activation of plain sessions"));
  ASSIGN_OR_RETURN(control_thread_,
                   start_thread("the control connections", [this] { control_loop(); }));
  // Loading may have taken longer than a stall.
  control_pulse_.beat();
  is_serving_.store(true, std::memory_order_release);
  stdout_sink().write("ready " + endpoint_.text() + "\n");
  // Nobody would know of a server that cannot say so.
  Status status = stdout_sink().refusal("stdout");
  if (status.ok()) status = wait_for_signals(signal_fd, Deadline::after(kNever));
  if (status.ok()) status = drain(signal_fd);
  stop_control();
  if (status.ok()) status = device_status();  // lost while the last ops were under way
  release_endpoint();
  const Status published = publish(Deadline::after(OutputFile::kLastWait));
  return status.ok() ? published : status;
}

Result<std::unique_ptr<Server>> Server::bind(const ServerOptions& options) {
  Endpoint endpoint = default_endpoint();
  if (!options.endpoint.empty()) {
    ASSIGN_OR_RETURN(endpoint, parse_endpoint(options.endpoint));
  }
  std::unique_ptr<Server> server(new Server(options, std::move(endpoint)));
  if (!options.stats_json.empty()) {
    ASSIGN_OR_RETURN(server->stats_json_, OutputFile::open(options.stats_json));
  }
  RETURN_IF_ERROR(server->take_endpoint());
  // One that was asked for: to load a model and then find no room for it would waste minutes.
  if (options.pool.mode == PoolMode::kShape) RETURN_IF_ERROR(server->open_pool());
  if (!options.metrics.empty()) {
    const ServerLook look{[started = server.get()] { return started->metrics(); },
                          [started = server.get()] { return started->health(); },
                          [started = server.get()] { return started->readiness(); }};
    ASSIGN_OR_RETURN(server->metrics_,
                     MetricsEndpoint::start(options.metrics, options.insecure_tcp, look));
    log_info("metrics at " + server->metrics_->url());
  }
  return server;
}

}  // namespace airlock
