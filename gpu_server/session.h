#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "base/status.h"
#include "base/tensor.h"
#include "base/wake_event.h"
#include "proto/handshake.h"
#include "runtime/compute.h"
#include "runtime/rpc/peer_life.h"
#include "runtime/rpc/session_channel.h"
#include "runtime/stats/counters_layout.h"
#include "runtime/stats/report.h"

namespace airlock {

/// What a server serves, loaded.
struct ServedModel {
  std::string config_json;
  Tensor norms;  // fp32 [2 * layers + 1, hidden]
  std::string digest;
  DType stored_dtype = DType::kF32;
  std::shared_ptr<ComputeModel> compute;
  std::optional<DeviceReport> device;  // of a GPU
};

/// Where a session counts.
struct SessionCounters {
  counters_layout::SessionBlock& block;  // its own
  OpHistograms& service_ns;              // all sessions'
};

/// One client's session: its rings, its data socket, its worker thread. The worker makes and
/// removes all that takes time (segments of many MiB), so that the control thread, which owns the
/// session, never keeps others waiting for signs of life. It counts in a block of the server's
/// counters file. report() may be called from any thread. Must not outlive the context, the model
/// and the counters.
class Session {
 public:
  /// Starts the worker: it makes segments and socket, waits for the runner to attach and serves.
  /// `welcome` comes with what the server says of itself; the worker fills in the rest. `changed`
  /// is set when there is an offer to take and when the worker is through; it outlives the session.
  Session(const ZmqContext& context, const ServedModel& model, Welcome welcome,
          std::string data_endpoint, std::string client, WakeEvent& changed,
          const SessionCounters& counters);
  ~Session();  // ends it and joins the worker
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  const std::string& data_endpoint() const { return data_endpoint_; }
  const std::string& client() const { return client_; }
  /// Once, when the worker has made it: what to tell the runner, or why there is no session.
  std::optional<Result<Welcome>> take_offer();
  /// take_offer() gave a welcome or a refusal.
  bool answered() const { return answered_; }
  /// The session ends as soon as the op under way is done.
  void end(Status reason) { life_.end(std::move(reason)); }
  bool ending() const { return !life_.check().ok() || finished(); }
  /// The worker is through; the reason is in the log.
  bool finished() const { return finished_.load(std::memory_order_acquire); }
  /// The control thread's own: how long the runner has been silent.
  SilenceMeter& silence() { return silence_; }
  SessionReport report() const;
  counters_layout::SessionBlock& block() { return counters_.block; }
  /// For a shutdown that cannot wait for the worker: leaves no file behind.
  void remove_files();

 private:
  void work();
  void close_channel();
  std::string own_json() const;
  Status refuse(Status reason);
  Status serve_client();

  const ZmqContext& context_;
  const ServedModel& model_;
  Welcome welcome_;  // the worker's
  const std::uint64_t epoch_;
  const std::string id_;
  const std::string data_endpoint_;
  const std::string client_;
  WakeEvent& changed_;
  const SessionCounters counters_;
  const std::uint64_t start_ns_ = now_ns();
  PeerLife life_;
  SilenceMeter silence_;
  bool answered_ = false;  // the control thread's
  mutable std::mutex mutex_;
  std::optional<Result<Welcome>> offer_;     // guarded by mutex_
  std::unique_ptr<SessionChannel> channel_;  // changed under mutex_ by the worker
  std::atomic<bool> finished_{false};
  std::thread worker_;
};

}  // namespace airlock
