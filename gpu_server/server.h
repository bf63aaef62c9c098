#pragma once

#include <atomic>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <thread>

#include "base/status.h"
#include "base/wake_event.h"
#include "gpu_server/metrics.h"
#include "gpu_server/options.h"
#include "gpu_server/session.h"
#include "runtime/channel/zmq_socket.h"
#include "runtime/rpc/endpoint.h"
#include "runtime/stats/counters_file.h"

namespace airlock {

/// The endpoint, the sessions and their statistics. bind() and run() on one thread; run() starts
/// the control thread (which never computes) and a worker for each session. server.cc has its
/// start, its end and its statistics, control.cc what the control thread does.
class Server {
 public:
  /// Takes the endpoint: the directory, the lock, what a dead server left, the socket. kInUse,
  /// kInvalidInput, kUsage, kResourceExhausted (/dev/shm too small for one session).
  static Result<std::unique_ptr<Server>> bind(const ServerOptions& options);
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;
  /// Prints "ready ENDPOINT" and serves until SIGINT or SIGTERM arrives on `signal_fd`. kDevice:
  /// the device failed for good; all sessions were ended and told why.
  Status run(ServedModel model, int signal_fd);

 private:
  using Identity = std::string;

  Server(const ServerOptions& options, Endpoint endpoint);
  Status take_endpoint();
  Status open_control();
  Status open_counters();
  void stop_control();
  void release_endpoint();
  Status wait_for_signals(int signal_fd);
  SideReport report() const;
  CountersSnapshot metrics() const;
  Status publish();

  // The control thread's.
  void control_loop();
  void check_counters();
  Status check_device();
  Status device_status() const;
  void end_all(const Status& reason, const Status& told);
  void handle(const Identity& identity, std::span<const std::byte> frame);
  void greet(const Identity& identity, const Hello& hello);
  Status check_hello(const Hello& hello) const;
  Result<std::unique_ptr<Session>> make_session(const Hello& hello);
  Result<std::string> session_endpoint() const;
  std::size_t active_sessions() const;
  void answer_new();
  void refuse(const Identity& identity, const std::string& client, const Status& why);
  void reap();
  Status send(const Identity& identity, const ControlMessage& message);

  const ServerOptions options_;
  Endpoint endpoint_;
  EndpointLock lock_;
  RingGeometry geometry_;
  bool ring_on_ = false;

  // Of the model only once it is loaded; changed under mutex_.
  ServerInfo info_;
  // Before the sessions that count there; set under mutex_.
  std::unique_ptr<CountersFile> counters_;
  // The control thread's.
  bool counters_lost_ = false;
  // Before the sessions that use it.
  std::unique_ptr<ServedModel> model_;
  // Ends the main thread's wait.
  WakeEvent device_lost_;
  // Guarded by mutex_; not ok: the device failed for good.
  Status device_status_;
  // Ends the control thread's wait: a session changed, or the server stops.
  WakeEvent wake_;
  std::unique_ptr<ZmqContext> context_;
  // The control thread's.
  std::unique_ptr<ZmqSocket> control_;
  // Guarded by mutex_; changed by the control thread only.
  std::map<Identity, std::unique_ptr<Session>> sessions_;
  // Guarded by mutex_; oldest are merged into the first.
  std::deque<SessionReport> ended_;
  mutable std::mutex mutex_;
  std::atomic<bool> stopping_{false};
  std::atomic<bool> all_ended_{false};
  std::thread control_thread_;
  // Last: its threads read the rest.
  std::unique_ptr<MetricsEndpoint> metrics_;
};

}  // namespace airlock
