#pragma once

#include <atomic>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <thread>

#include "gpu_server/metrics.h"
#include "gpu_server/server.h"
#include "gpu_server/session.h"
#include "runtime/channel/zmq_socket.h"
#include "runtime/rpc/endpoint.h"
#include "runtime/stats/counters_file.h"
#include "shm/ring_memory.h"

namespace airlock {

/// Internal to gpu_server/: the Server that there is. server.cc has its start, its end and its
/// statistics, control.cc what the control thread does.
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
  Status check_device();
  Status device_status() const;
  void end_all(const Status& reason, const Status& told);
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
  CountersSnapshot metrics() const;
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
  WakeEvent device_lost_;               // ends the main thread's wait
  Status device_status_;                // guarded by mutex_; not ok: the device failed for good
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

}  // namespace airlock
