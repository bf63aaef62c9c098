#include "gpu_server/server.h"

#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/random.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <deque>
#include <map>
#include <mutex>
#include <thread>
#include <vector>

#include "base/log.h"
#include "gpu_server/metrics.h"
#include "gpu_server/session.h"
#include "runtime/rpc/endpoint.h"
#include "runtime/stats/counters_file.h"
#include "shm/ring_memory.h"

namespace airlock {

namespace {

constexpr std::chrono::seconds kClientSilence{
    10};  // a runner that gives no sign for so long is gone
constexpr std::chrono::seconds kShutdownGrace{5};  // for the ops under way
constexpr std::size_t kReportsKept = 1024;         // of ended sessions, each by itself

Status fill_random(void* out, std::size_t bytes) {
  if (::getrandom(out, bytes, 0) == static_cast<ssize_t>(bytes)) return {};
  return {StatusCode::kInternal, "getrandom failed"};
}

// Room for one session's two rings must be there at start: better said now than to the first
// client.
Status check_shm_room(const RingGeometry& geometry) {
  ASSIGN_OR_RETURN(const std::size_t segment_bytes, ring_segment_bytes(geometry));
  struct statvfs info {};
  if (::statvfs("/dev/shm", &info) != 0) {
    return {StatusCode::kResourceExhausted,
            "/dev/shm is not there: mount a tmpfs on it, or give --ring off"};
  }
  const auto free_bytes = static_cast<std::size_t>(info.f_bavail) * info.f_frsize;
  if (info.f_blocks == 0 || free_bytes >= 2 * segment_bytes)
    return {};  // no blocks at all: a tmpfs without a limit
  return {StatusCode::kResourceExhausted,
          fmt::format("/dev/shm is too small: one session needs {:.1f} MiB, {:.1f} MiB are free; "
                      "give fewer --ring-slots, "
                      "smaller --ring-slot-bytes, or --ring off",
                      2.0 * static_cast<double>(segment_bytes) / 1048576.0,
                      static_cast<double>(free_bytes) / 1048576.0)};
}

class ServerImpl : public Server {
 public:
  ServerImpl(const ServerOptions& options, Endpoint endpoint)
      : options_(options), endpoint_(std::move(endpoint)) {
    info_.start_ns = now_ns();
    info_.start_unix_ns =
        static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::nanoseconds>(
                                       std::chrono::system_clock::now().time_since_epoch())
                                       .count());
    info_.max_clients = options_.max_clients;
  }
  ~ServerImpl() override {
    stop_control();
    release_endpoint();
  }

  Status take_endpoint();
  Status open_metrics();
  Status run(ServedModel model, int signal_fd) override;

 private:
  using Identity = std::string;
  Status open_control();
  Status open_counters();
  void check_counters();
  void stop_control();
  void release_endpoint();
  void control_loop();
  void handle(const Identity& identity, std::span<const std::byte> frame);
  void greet(const Identity& identity, const Hello& hello);
  Status check_hello(const Hello& hello) const;
  Result<std::unique_ptr<Session>> make_session(const Hello& hello);
  Result<std::string> session_endpoint() const;
  void answer_new();
  void reap();
  Status send(const Identity& identity, const ControlMessage& message);
  Status wait_for_signals(int signal_fd);
  SideReport report() const;
  MetricsSnapshot metrics() const;
  Status publish(bool print);
  void publish_now();

  ServerOptions options_;
  Endpoint endpoint_;
  EndpointLock lock_;
  RingGeometry geometry_;
  bool ring_on_ = false;

  ServerInfo info_;  // of the model only once it is loaded; changed under mutex_
  std::unique_ptr<CountersFile>
      counters_;                        // before the sessions that count there; set under mutex_
  bool counters_lost_ = false;          // the control thread's
  std::unique_ptr<ServedModel> model_;  // before the sessions that use it
  WakeEvent wake_;  // ends the control thread's wait: a session changed, or the server stops
  std::unique_ptr<ZmqContext> context_;
  std::unique_ptr<ZmqSocket> control_;  // the control thread's
  std::map<Identity, std::unique_ptr<Session>>
      sessions_;                     // guarded by mutex_; changed by the control thread only
  std::deque<SessionReport> ended_;  // guarded by mutex_; oldest are merged into the first
  mutable std::mutex mutex_;
  std::atomic<bool> stopping_{false};
  std::atomic<bool> all_ended_{false};
  std::thread control_thread_;
  std::unique_ptr<MetricsEndpoint> metrics_;  // last: its threads read the rest
};

Status ServerImpl::take_endpoint() {
  RETURN_IF_ERROR(wake_.check());
  const bool ipc = endpoint_.kind == Endpoint::Kind::kIpc;
  if (!endpoint_.is_loopback() && !options_.insecure_tcp) {
    return {
        StatusCode::kUsage,
        fmt::format("--endpoint {} is reachable from other machines, and nothing is encrypted or "
                    "authenticated: add --insecure-tcp if you accept that",
                    endpoint_.text())};
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
  if (endpoint_.host == "localhost") endpoint_.host = "127.0.0.1";  // libzmq binds to no names
  ring_on_ = options_.ring == ServerRing::kOn || (options_.ring == ServerRing::kAuto && ipc);
  geometry_ = {static_cast<std::uint32_t>(options_.slot_count),
               static_cast<std::uint32_t>(options_.slot_bytes)};
  sweep_stale_segments();
  sweep_tcp_counters_files(default_endpoint().directory());
  return ring_on_ ? check_shm_room(geometry_) : Status();
}

Status ServerImpl::open_control() {
  ASSIGN_OR_RETURN(context_, ZmqContext::create());
  ZmqSocketOptions options;
  options.linger = std::chrono::milliseconds(200);  // lets goodbyes leave
  options.max_frame_bytes = limits::kMaxControlBytes;
  options.send_high_water_frames = 64;
  options.receive_high_water_frames = 64;
  options.monitor = false;
  options.wake_fd = wake_.fd();
  ASSIGN_OR_RETURN(ZmqSocket socket, ZmqSocket::create(*context_, ZmqSocketType::kRouter, options));
  ASSIGN_OR_RETURN(const std::string real, socket.bind(endpoint_.text()));
  ASSIGN_OR_RETURN(endpoint_, parse_endpoint(real));
  control_ = std::make_unique<ZmqSocket>(std::move(socket));
  if (endpoint_.kind == Endpoint::Kind::kIpc) ::chmod(endpoint_.path.c_str(), 0600);
  return {};
}

Status ServerImpl::open_metrics() {
  if (options_.metrics.empty()) return {};
  ASSIGN_OR_RETURN(metrics_, MetricsEndpoint::start(options_.metrics, options_.insecure_tcp,
                                                    [this] { return metrics(); }));
  log_info("metrics at " + metrics_->url());
  return {};
}

// What the server knows of itself by now, and the place where it counts: without a file nobody can
// look from outside, and that is no reason not to serve.
Status ServerImpl::open_counters() {
  ServerInfo info = info_;
  const BackendInfo& backend = model_->compute->info();
  info.model = options_.model.empty() ? options_.synthetic : options_.model;
  info.endpoint = endpoint_.text();
  info.digest = model_->digest;
  info.dtype = dtype_name(backend.dtype);
  info.host = describe_host(backend.device);
  info.threads = options_.threads;
  info.slot_count = geometry_.slot_count;
  info.slot_bytes = geometry_.slot_bytes;
  info.ring_on = ring_on_;
  const std::size_t block_count = 2 * options_.max_clients;  // as many sessions as there can be
  Status status;
  if (endpoint_.kind == Endpoint::Kind::kTcp)
    status = check_endpoint_directory(default_endpoint().directory(), IfMissing::kCreate);
  std::unique_ptr<CountersFile> counters;
  if (status.ok()) {
    auto made = CountersFile::create(counters_path(endpoint_), info, block_count);
    status = made.status();
    if (made.ok()) counters = std::move(made).value();
  }
  if (!counters) {
    log_warning(fmt::format("no counters file, airlock_stat cannot look at this server: {}",
                            status.message()));
    ASSIGN_OR_RETURN(counters, CountersFile::in_memory(info, block_count));
  }
  const std::lock_guard lock(mutex_);
  info_ = std::move(info);
  counters_ = std::move(counters);
  return {};
}

// The file was cut short: the counts go on, from zero or less, where nobody else sees them.
void ServerImpl::check_counters() {
  if (counters_lost_ || !counters_->damaged()) return;
  counters_lost_ = true;
  log_warning(
      "the counters file was cut short by somebody: what was counted so far may be lost, and "
      "airlock_stat cannot look at this server any more");
  const std::lock_guard lock(mutex_);
  counters_->remove();
}

// While the lock is still held: after it another server's socket may lie there.
void ServerImpl::release_endpoint() {
  if (counters_) counters_->remove();
  if (!control_) return;
  control_.reset();
  if (endpoint_.kind == Endpoint::Kind::kIpc) ::unlink(endpoint_.path.c_str());
}

Status ServerImpl::send(const Identity& identity, const ControlMessage& message) {
  const std::vector<std::byte> frame = encode_control(message);
  const std::span<const std::byte> parts[] = {std::as_bytes(std::span(identity)), frame};
  return control_->send(
      parts, Deadline::now());  // one that reads nothing gets nothing, and nobody waits for it
}

void ServerImpl::handle(const Identity& identity, std::span<const std::byte> frame) {
  auto message = decode_control(frame);
  const auto known = sessions_.find(identity);
  if (!message.ok()) {
    if (known != sessions_.end()) return known->second->end(message.status());
    log_warning("control socket: " + message.status().message());
    if (message.status().code() == StatusCode::kVersionMismatch)
      counters_->live().sessions_refused.fetch_add(1, std::memory_order_relaxed);
    return (void)send(identity, Refusal{message.status().code(), message.status().message()});
  }
  if (const auto* hello = std::get_if<Hello>(&*message)) {
    if (known == sessions_.end()) return greet(identity, *hello);
    return known->second->end({StatusCode::kProtocolError, "a second hello in one session"});
  }
  if (known == sessions_.end()) return;
  known->second->silence().heard();
  if (std::holds_alternative<Goodbye>(*message)) {
    known->second->end({StatusCode::kUnavailable, "the client said goodbye"});
  }
}

Status ServerImpl::check_hello(const Hello& hello) const {
  if (stopping_.load(std::memory_order_acquire)) {
    return Status(StatusCode::kUnavailable, "it is shutting down");
  }
  // One that is ending holds its slot no more, so that a runner may follow another at once; memory
  // stays bounded.
  const auto alive = static_cast<std::size_t>(
      std::ranges::count_if(sessions_, [](const auto& entry) { return !entry.second->ending(); }));
  if (alive >= options_.max_clients || sessions_.size() >= 2 * options_.max_clients) {
    return Status(
        StatusCode::kResourceExhausted,
        fmt::format("server full: {} of {} sessions are in use (--max-clients); try again later",
                    alive, options_.max_clients));
  }
  if (!hello.digest.empty() && hello.digest != model_->digest) {
    return Status(StatusCode::kMismatch,
                  fmt::format("it serves another model: digest {}, yours is {}", model_->digest,
                              hello.digest));
  }
  if ((hello.want_slot_count != 0 && hello.want_slot_count != geometry_.slot_count) ||
      (hello.want_slot_bytes != 0 && hello.want_slot_bytes != geometry_.slot_bytes)) {
    return Status(StatusCode::kUnavailable,
                  fmt::format("its rings have {} slots of {} bytes, {} of {} are demanded "
                              "(--ring-slots, --ring-slot-bytes)",
                              geometry_.slot_count, geometry_.slot_bytes, hello.want_slot_count,
                              hello.want_slot_bytes));
  }
  return {};
}

// A path that no session has: one that libzmq found taken it would remove.
Result<std::string> ServerImpl::session_endpoint() const {
  if (endpoint_.kind == Endpoint::Kind::kTcp) return fmt::format("tcp://{}:*", endpoint_.host);
  constexpr int kAttempts = 256;
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    std::uint32_t random = 0;
    RETURN_IF_ERROR(fill_random(&random, sizeof(random)));
    ASSIGN_OR_RETURN(const std::string path, session_socket_path(endpoint_.path, random));
    const std::string text = "ipc://" + path;
    const bool ours = std::ranges::any_of(
        sessions_, [&](const auto& entry) { return entry.second->data_endpoint() == text; });
    if (!ours && ::access(path.c_str(), F_OK) != 0) return text;
  }
  return Status(StatusCode::kResourceExhausted,
                "no free name for the session's socket; give an --endpoint with a shorter path");
}

Result<std::unique_ptr<Session>> ServerImpl::make_session(const Hello& hello) {
  RETURN_IF_ERROR(check_hello(hello));
  ASSIGN_OR_RETURN(std::string data, session_endpoint());
  const BackendInfo& info = model_->compute->info();
  Welcome welcome;
  std::uint64_t random[3] = {};
  RETURN_IF_ERROR(fill_random(random, sizeof(random)));
  welcome.epoch = random[0] | 1;  // never 0
  welcome.token = fmt::format("{:016x}{:016x}", random[1], random[2]);
  welcome.ring = ring_on_ && hello.ring == RingMode::kOn ? RingMode::kOn : RingMode::kOff;
  welcome.geometry = geometry_;
  welcome.dims = info.dims;
  welcome.digest = model_->digest;
  welcome.dtype = info.dtype;
  welcome.stored_dtype = model_->stored_dtype;
  welcome.threads = static_cast<std::uint32_t>(info.threads);
  welcome.device = info.device;
  welcome.config_bytes = static_cast<std::uint32_t>(model_->config_json.size());
  const std::lock_guard lock(mutex_);
  auto* block = counters_->open_session(welcome.epoch, hello.client, now_ns());
  if (block == nullptr) {
    return Status(StatusCode::kResourceExhausted, "server full: sessions are still ending");
  }
  return std::make_unique<Session>(*context_, *model_, std::move(welcome), std::move(data),
                                   hello.client, wake_,
                                   SessionCounters{*block, counters_->live().service_ns});
}

void ServerImpl::greet(const Identity& identity, const Hello& hello) {
  reap();
  auto session = make_session(hello);
  if (!session.ok()) {
    log_warning(fmt::format("refused {}: {}", hello.client, session.status().message()));
    counters_->live().sessions_refused.fetch_add(1, std::memory_order_relaxed);
    return (void)send(identity, Refusal{session.status().code(), session.status().message()});
  }
  const std::lock_guard lock(mutex_);
  sessions_.emplace(identity, std::move(session).value());
}

// Tells new clients what came of their hello.
void ServerImpl::answer_new() {
  for (auto entry = sessions_.begin(); entry != sessions_.end();) {
    Session& session = *entry->second;
    auto offer = session.answered() ? std::nullopt : session.take_offer();
    if (!offer) {
      ++entry;
    } else if (offer->ok()) {
      log_info(fmt::format("session {:016x}: {}", (*offer)->epoch, session.client()));
      counters_->live().sessions_started.fetch_add(1, std::memory_order_relaxed);
      if (Status sent = send(entry->first, **offer); !sent.ok()) {
        session.end(
            {StatusCode::kUnavailable, "the client left before its welcome: " + sent.message()});
      }
      ++entry;
    } else {
      log_warning(fmt::format("refused {}: {}", session.client(), offer->status().message()));
      (void)send(entry->first, Refusal{offer->status().code(), offer->status().message()});
      counters_->live().sessions_refused.fetch_add(1, std::memory_order_relaxed);
      const std::lock_guard lock(mutex_);
      auto& block = session.block();
      entry = sessions_.erase(entry);  // its worker is through: it made nothing
      counters_->drop_session(block);
    }
  }
}

// Sessions whose worker is through go; their statistics stay.
void ServerImpl::reap() {
  for (auto entry = sessions_.begin(); entry != sessions_.end();) {
    if (!entry->second->finished() || !entry->second->answered()) {
      ++entry;
      continue;
    }
    (void)send(entry->first, Goodbye{"the session is over"});  // it may be gone
    SessionReport last = entry->second->report();
    const std::lock_guard lock(mutex_);
    ended_.push_back(std::move(last));
    if (ended_.size() > kReportsKept) {
      ended_[1].merge_older(ended_[0]);
      ended_.pop_front();
    }
    auto& block = entry->second->block();
    entry = sessions_.erase(entry);
    counters_->close_session(block);
  }
}

void ServerImpl::control_loop() {
  Deadline next_sign = Deadline::now();
  bool told = false;
  while (!all_ended_.load(std::memory_order_acquire)) {
    auto parts = control_->receive(next_sign);
    counters_->live().heartbeat_ns.store(now_ns(), std::memory_order_relaxed);
    wake_.clear();  // before looking at what it may stand for
    if (parts.ok() && parts->size() == 2) {
      const auto& id = (*parts)[0];
      handle(Identity(reinterpret_cast<const char*>(id.data()), id.size()), (*parts)[1]);
    }
    answer_new();
    const bool stopping = stopping_.load(std::memory_order_acquire);
    const bool sign_due = next_sign.expired();
    if (sign_due) next_sign = Deadline::after(kSignInterval);
    check_counters();
    for (auto& [identity, session] : sessions_) {
      if (stopping && !told) {
        (void)send(identity, Goodbye{"it is shutting down"});
        session->end({StatusCode::kCancelled, "the server is shutting down"});
      }
      if (sign_due) (void)send(identity, Sign{});
      session->silence().tick(now_ns());
      if (!session->answered()) session->silence().heard();  // it waits for us
      if (session->silence().silent_ns() >
          static_cast<std::uint64_t>(std::chrono::nanoseconds(kClientSilence).count())) {
        session->end({StatusCode::kUnavailable, "no sign of life from the client for 10 s"});
      }
    }
    told |= stopping;
    reap();
    if (stopping && sessions_.empty()) all_ended_.store(true, std::memory_order_release);
  }
}

void ServerImpl::stop_control() {
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
  for (auto& [identity, session] : sessions_) session->remove_files();
  (void)publish(true);
  counters_->remove();
  if (endpoint_.kind == Endpoint::Kind::kIpc) {
    ::unlink(endpoint_.path.c_str());
    ::unlink((endpoint_.path + ".lock").c_str());
  }
  std::fflush(nullptr);
  ::_exit(0);
}

SideReport ServerImpl::report() const {
  const std::lock_guard lock(mutex_);
  SideReport report = describe_server(info_);
  report.wall_ns = now_ns() - info_.start_ns;
  report.sessions.assign(ended_.begin(), ended_.end());
  for (const auto& [identity, session] : sessions_) report.sessions.push_back(session->report());
  for (const SessionReport& session : report.sessions) report.merge(session);
  return report;
}

// Any thread; also while the model is loading.
MetricsSnapshot ServerImpl::metrics() const {
  MetricsSnapshot metrics;
  const std::lock_guard lock(mutex_);
  metrics.device = info_.host.device;
  metrics.dtype = info_.dtype;
  metrics.start_unix_ns = info_.start_unix_ns;
  metrics.max_clients = info_.max_clients;
  metrics.sessions_active = static_cast<std::uint64_t>(
      std::ranges::count_if(sessions_, [](const auto& entry) { return !entry.second->ending(); }));
  if (!counters_) return metrics;
  const CounterSums sums = counters_->sums();
  metrics.transport = sums.transport;
  metrics.ops = sums.ops;
  const counters_layout::Live& live = counters_->live();
  metrics.sessions_started = live.sessions_started.load(std::memory_order_relaxed);
  metrics.sessions_refused = live.sessions_refused.load(std::memory_order_relaxed);
  metrics.service_ns = snapshot_of(live.service_ns);
  const std::uint64_t sign_ns = live.heartbeat_ns.load(std::memory_order_relaxed);
  const std::uint64_t now = now_ns();
  metrics.heartbeat_age_ns = now > sign_ns ? now - sign_ns : 0;
  return metrics;
}

Status ServerImpl::publish(bool print) {
  const SideReport current = report();
  if (print) {
    std::fputs(report_table(current).c_str(), stdout);
    std::fflush(stdout);
  }
  if (options_.stats_json.empty()) return {};
  return write_file_atomically(options_.stats_json, report_json(current));
}

// A file that cannot be written is no reason to leave the clients; at the end it is said with the
// exit code.
void ServerImpl::publish_now() {
  if (Status status = publish(true); !status.ok()) log_warning(status.message());
}

Status ServerImpl::wait_for_signals(int signal_fd) {
  const bool periodic = options_.stats_interval_s > 0;
  const auto interval =
      std::chrono::nanoseconds(static_cast<std::int64_t>(options_.stats_interval_s * 1e9));
  Deadline next = Deadline::after(interval);
  for (;;) {
    pollfd waiting{signal_fd, POLLIN, 0};
    const auto left_ms =
        std::chrono::duration_cast<std::chrono::milliseconds>(next.remaining()).count() + 1;
    ::poll(&waiting, 1,
           periodic ? static_cast<int>(std::min<std::int64_t>(left_ms, 60'000)) : 60'000);
    signalfd_siginfo info{};
    if (::read(signal_fd, &info, sizeof(info)) == static_cast<ssize_t>(sizeof(info))) {
      if (info.ssi_signo != SIGUSR1) return {};
      publish_now();
    }
    if (periodic && next.expired()) {
      next = Deadline::after(interval);
      publish_now();
    }
  }
}

Status ServerImpl::run(ServedModel model, int signal_fd) {
  model_ = std::make_unique<ServedModel>(std::move(model));
  RETURN_IF_ERROR(open_control());
  RETURN_IF_ERROR(open_counters());
  log_info("a host's program: it sees token ids and every activation (docs/THREAT_MODEL.md)");
  control_thread_ = std::thread([this] { control_loop(); });
  std::printf("ready %s\n", endpoint_.text().c_str());
  std::fflush(stdout);
  Status status = wait_for_signals(signal_fd);
  stop_control();
  release_endpoint();
  const Status published = publish(true);
  return status.ok() ? published : status;
}

}  // namespace

Result<std::unique_ptr<Server>> Server::bind(const ServerOptions& options) {
  Endpoint endpoint = default_endpoint();
  if (!options.endpoint.empty()) {
    ASSIGN_OR_RETURN(endpoint, parse_endpoint(options.endpoint));
  }
  auto server = std::make_unique<ServerImpl>(options, std::move(endpoint));
  RETURN_IF_ERROR(server->take_endpoint());
  RETURN_IF_ERROR(server->open_metrics());
  return std::unique_ptr<Server>(std::move(server));
}

}  // namespace airlock
