#pragma once

#include <sys/signalfd.h>

#include <atomic>
#include <chrono>
#include <deque>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include "base/log_limiter.h"
#include "base/output_file.h"
#include "base/pulse.h"
#include "base/status.h"
#include "base/wake_event.h"
#include "gpu_server/metrics.h"
#include "gpu_server/options.h"
#include "gpu_server/session.h"
#include "runtime/rpc/control_connection.h"
#include "runtime/rpc/endpoint.h"
#include "runtime/secure/tls.h"
#include "runtime/stats/counters_file.h"

namespace airlock {

/// The endpoint, the sessions and their statistics. bind() and run() on one thread; run() starts
/// the control thread (which never computes) and a worker for each session. server.cc has its
/// start, its end and its statistics, control.cc what the control thread does.
class Server {
 public:
  /// Sessions at once, for each that may have a place: those that begin and those that end are
  /// there too.
  static constexpr std::size_t kSessionsPerPlace = 3;
  /// Connections that have not said hello.
  static constexpr std::size_t kMaxStrangers = 64;

  /// Takes the endpoint: the directory, the lock, what a dead server left, the socket. kInUse,
  /// kInvalidInput, kUsage, kResourceExhausted (memory or /dev/shm too small for one session).
  static Result<std::unique_ptr<Server>> bind(const ServerOptions& options);
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;
  /// Prints "ready ENDPOINT" and serves until SIGINT, SIGTERM or SIGHUP arrives on `signal_fd`;
  /// then drains, until a second one comes at the latest.
  /// kDevice: the device failed for good; all sessions were ended and told why.
  Status run(ServedModel model, int signal_fd);
  /// Called, with the exit code, where run() ends the process itself, as an op that is under way
  /// cannot be waited for.
  void before_exit(std::function<void(int)> call) { before_exit_ = std::move(call); }

 private:
  /// One control connection, and the session that its hello has led to.
  struct Client {
    explicit Client(ControlConnection came)
        : peer(came.peer()),
          connection(std::move(came)),
          hello_due(Deadline::after(kHelloPatience)) {}
    /// Whose connection it is, for counting and for the log.
    std::string peer;
    /// None: it is closed, and the session, if any, is ending.
    std::optional<ControlConnection> connection;
    std::unique_ptr<Session> session;
    /// By then a hello has come.
    Deadline hello_due;
    /// Waits until there is room for its session.
    std::optional<Hello> hello;
    /// It was told that its session is served from here on.
    bool is_attached = false;
    /// A refusal or a goodbye was sent: nothing else is to follow.
    bool is_told_the_end = false;
    /// That came since the last sign of life left.
    std::size_t messages = 0;
    /// There may be something to read: so it is of one that is new.
    bool is_readable = true;
  };
  /// From a connection to its hello.
  static constexpr std::chrono::seconds kHelloPatience{2};
  /// From a hello to a session: others that begin or end are in the way.
  static constexpr std::chrono::seconds kRoomPatience{4};

  Server(const ServerOptions& options, Endpoint endpoint);
  Status take_endpoint();
  Status check_room(bool ipc) const;
  Status open_pool();
  Status open_control();
  Status open_counters();
  void stop_control();
  void release_endpoint();
  bool is_repeated(const signalfd_siginfo& signal) const;
  Status wait_for_signals(int signal_fd, Deadline deadline);
  Status drain(int signal_fd);
  Status health() const;
  Status readiness() const;
  SideReport report() const;
  CountersSnapshot metrics() const;
  /// A statistics file that stands still is waited for until `end`.
  Status publish(Deadline end);

  // The control thread's.
  void control_loop();
  void control_round();
  bool wait_for_work(Deadline deadline);
  void take_newcomers();
  void check_counters();
  void check_endpoint();
  Status check_device();
  Status device_status() const;
  void end_all(const Status& reason, const Status& told);
  void read_from(Client& client);
  void handle(Client& client, const ControlFrame& frame);
  void greet(Client& client);
  Status check_hello(const Hello& hello) const;
  Status make_room_for_a_session();
  Result<std::unique_ptr<Session>> make_session(const Hello& hello);
  void pass_news(Client& client);
  void watch_silence(Client& client);
  void refuse(Client& client, const std::string& who, const Status& why);
  void refuse_and_close(Client& client, const Status& why);
  void close(Client& client);
  void reap();
  // A worker's.
  Status admit(Session& session);
  void show_lease(Session& session, const SessionLease& lease);

  Status full(std::size_t active) const;
  std::size_t session_count() const;
  std::size_t active_sessions() const;

  const ServerOptions options_;
  std::function<void(int)> before_exit_;
  // The main thread's: until then another signal is the same one, sent to another rank.
  Deadline same_signal_until_ = Deadline::now();
  std::optional<OutputFile> stats_json_;
  Endpoint endpoint_;
  // Of a tcp endpoint with keys. Before the connections that it encrypts.
  std::shared_ptr<const StreamSecurity> security_;
  EndpointLock lock_;
  RingGeometry geometry_;
  bool ring_on_ = false;
  // Null: none, or there is too little memory. Before the sessions that lease of it.
  std::unique_ptr<PoolRegion> pool_;

  // Of the model only once it is loaded; changed under mutex_.
  ServerInfo info_;
  // Before the sessions that count there; set under mutex_.
  std::unique_ptr<CountersFile> counters_;
  // The control thread's.
  bool counters_lost_ = false;
  std::atomic<bool> endpoint_lost_{false};  // read by the metrics' thread: the value alone counts
  bool told_the_end_ = false;
  Deadline next_sign_ = Deadline::now();
  Deadline next_look_ = Deadline::now();  // at the endpoint
  // What peers cause is logged at a bounded rate, each cause by itself.
  LogLimiter junk_;
  LogLimiter refused_;
  LogLimiter sessions_;
  LogLimiter ended_log_;
  LogLimiter lacking_log_;
  LogLimiter limit_log_;
  // Before the sessions that use it.
  std::unique_ptr<ServedModel> model_;
  // Each ends the main thread's wait; drained_: no session is left while it drains.
  WakeEvent device_lost_;
  WakeEvent drained_;
  // Guarded by mutex_; not ok: the device failed for good.
  Status device_status_;
  // Ends the control thread's wait: a session changed, or the server stops.
  WakeEvent wake_;
  // The control thread's.
  std::optional<ControlListener> listener_;
  // Oldest first. Guarded by mutex_; changed by the control thread only.
  std::list<Client> clients_;
  // Guarded by mutex_; oldest are merged into the first.
  std::deque<SessionReport> ended_;
  mutable std::mutex mutex_;
  // Each is told to the control thread and read by the metrics': no new session is taken; all end.
  std::atomic<bool> draining_{false};
  std::atomic<bool> stopping_{false};
  std::atomic<bool> all_ended_{false};
  // The control thread runs.
  std::atomic<bool> is_serving_{false};
  Pulse control_pulse_;
  std::thread control_thread_;
  // Last: its threads read the rest.
  std::unique_ptr<MetricsEndpoint> metrics_;
};

}  // namespace airlock
