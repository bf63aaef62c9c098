#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/log_limiter.h"
#include "base/status.h"
#include "base/tensor.h"
#include "base/wake_event.h"
#include "pool/region.h"
#include "proto/handshake.h"
#include "runtime/compute.h"
#include "runtime/model/model_source.h"
#include "runtime/rpc/endpoint.h"
#include "runtime/rpc/peer_life.h"
#include "runtime/rpc/session_channel.h"
#include "runtime/stats/counters_file.h"
#include "runtime/stats/report.h"

namespace airlock {

/// What a server serves, loaded. Without a model (`compute` has none) config, norms and digest are
/// empty.
struct ServedModel {
  std::string config_json;
  Tensor norms;  // fp32 [2 * layers + 1, hidden]
  std::string digest;
  DType stored_dtype = DType::kF32;
  std::shared_ptr<ComputeModel> compute;
  std::optional<DeviceReport> device;  // of a GPU
  std::uint64_t max_op_flop = 0;       // as ServeContext has it
  // What int8 weights are made from, when a session asks for them; null without a model. Shared: a
  // test's server has no model of its own.
  std::shared_ptr<const ModelSource> source{};
};

/// Where a session counts.
struct SessionCounters {
  counters_layout::SessionBlock& block;  // its own
  OpHistograms& service_ns;              // all sessions'
};

class Session;

/// What a session stands on; all that is referred to outlives it.
struct SessionGround {
  const ServedModel& model;
  // Where the server's control connections come in: the session's data socket lies beside it.
  Endpoint control;
  // What encrypts that; null: nothing does.
  const StreamSecurity* security = nullptr;
  // Set when there is something to tell the runner and when the worker is through.
  WakeEvent& changed;
  // Where the ends of sessions are logged.
  LogLimiter& ended_log;
  // Where it is logged that a session got less of the pool than it asked for.
  LogLimiter& lacking_log;
  // Where it is logged which path limit a session found.
  LogLimiter& limit_log;
  // Asked by the worker once the runner is attached: gives the session one of the server's places,
  // or says why there is none.
  std::function<Status(Session&)> admit;
  // Called by the worker with each change of what the session has of the pool: before it may be
  // used, before it is given back, and after that. Throws nothing.
  std::function<void(Session&, const SessionLease&)> show_lease;
  // The server's pool, null where it has none; and what the client asks for of it.
  PoolRegion* pool = nullptr;
  PoolWish pool_wish;
  // As its hello has them.
  Privacy privacy = Privacy::kPlain;
  Int8Weights int8_weights = Int8Weights::kNone;
};

/// A message for the runner, and what goes beside it.
struct SessionNews {
  ControlMessage message;
  std::vector<UniqueFd> descriptors;
};

/// One client's session: its rings, its data socket, its worker thread. The worker makes and
/// removes all that takes time (segments of many MiB), so that the control thread, which owns the
/// session, never keeps others waiting for signs of life. It counts in a block of the server's
/// counters file.
///
/// made -> (the runner comes to the data socket) attached -> over -> released -> finished.
/// The control thread passes news on, closes the connection of a session that is over, and only
/// then releases it: a runner whose rings' memory goes can see that the server has gone.
///
/// report() may be called from any thread.
class Session {
 public:
  /// Starts the worker: it makes segments and socket, waits for the runner to attach and serves.
  /// `welcome` comes with what the server says of itself; the worker fills in the rest.
  /// kResourceExhausted: no thread.
  static Result<std::unique_ptr<Session>> start(SessionGround ground, Welcome welcome,
                                                std::string client,
                                                const SessionCounters& counters);
  ~Session();  // ends it and joins the worker
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  const std::string& client() const { return client_; }
  Privacy privacy() const { return ground_.privacy; }
  std::uint64_t epoch() const { return epoch_; }
  std::chrono::nanoseconds age() const { return std::chrono::nanoseconds(now_ns() - start_ns_); }
  /// The next message for the runner, in order.
  std::optional<SessionNews> take_news();
  /// The session ends as soon as the op under way is done.
  void end(Status reason) { life_.end(std::move(reason)); }
  bool ending() const { return !life_.check().ok() || over(); }
  /// It has one of the server's places, until it is ending. Set by `admit`.
  bool attached() const { return attached_.load(std::memory_order_acquire); }
  void set_attached() { attached_.store(true, std::memory_order_release); }
  /// Nothing is served any more; the reason is final.
  bool over() const { return over_.load(std::memory_order_acquire); }
  Status reason() const;
  /// After over(): the runner's connection is closed; the worker may go. `discards`: the rings'
  /// memory goes at once, else with the last who maps it.
  void release(bool discards);
  /// The worker is through.
  bool finished() const { return finished_.load(std::memory_order_acquire); }
  /// The control thread's own: how long the runner has been silent.
  SilenceMeter& silence() { return silence_; }
  SessionReport report() const;
  counters_layout::SessionBlock& block() { return counters_.block; }
  /// For a shutdown that cannot wait for the worker: leaves no file behind.
  void remove_files() const;

 private:
  Session(SessionGround ground, Welcome welcome, std::string client,
          const SessionCounters& counters);
  void work();
  void tell(ControlMessage message, std::vector<UniqueFd> descriptors = {});
  std::string own_json() const;
  Status serve_client();
  Status attach(std::unique_ptr<Compute>& compute, Attached& attached,
                std::vector<UniqueFd>& leased);
  Result<std::string> prepare_int8();
  bool await_release();

  const SessionGround ground_;
  Welcome welcome_;  // the worker's
  const std::uint64_t epoch_;
  const std::string client_;
  const SessionCounters counters_;
  const std::uint64_t start_ns_ = now_ns();
  PeerLife life_;
  SilenceMeter silence_;
  std::atomic<bool> attached_{false};
  mutable std::mutex mutex_;
  std::deque<SessionNews> news_;             // guarded by mutex_
  Status reason_;                            // guarded by mutex_
  bool released_ = false;                    // guarded by mutex_
  bool discards_ = false;                    // guarded by mutex_
  std::condition_variable release_;          // of released_
  std::unique_ptr<SessionChannel> channel_;  // the worker's
  bool shows_lease_ = false;                 // the worker's
  std::atomic<bool> over_{false};
  std::atomic<bool> finished_{false};
  std::thread worker_;
};

}  // namespace airlock
