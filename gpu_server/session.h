#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "base/status.h"
#include "gpu_server/server.h"
#include "proto/handshake.h"
#include "runtime/rpc/peer_life.h"
#include "runtime/rpc/session_channel.h"
#include "runtime/stats/op_stats.h"
#include "runtime/stats/report.h"

namespace airlock {

/// One client's session: its rings, its data socket, its worker thread. The control thread owns it; report() may be
/// called from any thread. Must not outlive the context and the model.
class Session {
 public:
  /// Makes segments and socket. `welcome` comes with what the server says of itself; the rest is filled in.
  static Result<std::unique_ptr<Session>> create(const ZmqContext& context, const ServedModel& model, Welcome welcome,
                                                 const std::string& data_endpoint, const Hello& hello);
  ~Session();  // ends it and joins the worker

  const Welcome& welcome() const { return welcome_; }
  /// Starts the worker: it waits for the runner to attach and then serves.
  void start();
  /// The session ends as soon as the op under way is done.
  void end(Status reason) { life_.end(std::move(reason)); }
  /// The worker is through; the reason is in the log.
  bool finished() const { return finished_.load(std::memory_order_acquire); }
  /// The control thread's own: how long the runner has been silent.
  SilenceMeter& silence() { return silence_; }
  SessionReport report() const;
  /// For a shutdown that cannot wait for the worker: leaves no file behind.
  void remove_files();

 private:
  Session(const ServedModel& model, Welcome welcome, std::string client);
  void work();
  std::string own_json() const;
  Status serve_client();

  const ServedModel& model_;
  Welcome welcome_;
  std::string client_;
  const std::uint64_t start_ns_ = now_ns();
  PeerLife life_;
  SilenceMeter silence_;
  OpStatsTable op_stats_;
  std::unique_ptr<SessionChannel> channel_;
  mutable std::mutex mutex_;
  const TransportStats* stats_ = nullptr;  // once the runner attached; guarded by mutex_
  std::atomic<bool> finished_{false};
  std::thread worker_;
};

}  // namespace airlock
