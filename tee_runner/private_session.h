#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"
#include "base/thread_pool.h"
#include "runtime/local_backend.h"
#include "runtime/model/forward_plan.h"
#include "runtime/rpc/client.h"
#include "tee_runner/measured_backend.h"
#include "tee_runner/options.h"
#include "tee_runner/privacy/private_backend.h"
#include "tee_runner/privacy/private_model.h"
#include "tee_runner/stats_reporter.h"

namespace airlock {

/// Says in log and statistics which mode it is; of plain, which has no promise, where there is a
/// server.
void announce_privacy(const ModelOptions& options, StatsReporter& reporter);
/// What the worker's session must be asked for in this mode.
void ask_for_privacy(const PrivacyOptions& options, ConnectOptions& connect);
/// kMismatch: the server made other int8 weights than we did.
Status check_int8_digest(const ClientSession& session, const PrivateModel& model);
/// kMismatch where the options name another digest than the model's own, which is `digest`.
Status check_model_digest(const ModelOptions& options, const std::string& digest);

/// What a private session asks its worker for where a driver asks it for `plan`.
std::vector<PlannedOp> crossing_ops(const PrivacyOptions& options, const PrivateModel& model,
                                    const std::vector<PlannedOp>& plan);

/// A private mode between a driver and who multiplies for it: its pads and their keys, which are
/// drawn anew each time, the dealer's session where there is one, and the backend to ask. One
/// thread.
class PrivateSession {
 public:
  /// `worker` takes int_linear; a dealer is asked for as `connect` asks for the worker's server.
  /// All that is referred to outlives it; in `ops` the pads' products are booked. Errors as
  /// ClientSession::connect() of a dealer, and for want of threads.
  static Result<std::unique_ptr<PrivateSession>> start(const ModelOptions& options,
                                                       const ConnectOptions& connect,
                                                       const PrivateModel& model, Backend& worker,
                                                       PrivacyStats& stats, OpStatsTable& ops);
  ~PrivateSession();
  PrivateSession(const PrivateSession&) = delete;
  PrivateSession& operator=(const PrivateSession&) = delete;

  Backend& backend() { return *backend_; }
  /// For the driver's kernels too: they and what is hidden take turns on one thread.
  const std::shared_ptr<ThreadPool>& pool() const { return pool_; }
  /// Whether the dealer is there; ok where there is none.
  Status check() const { return dealer_ == nullptr ? Status() : dealer_->check(); }

 private:
  PrivateSession() = default;
  Status start_pads(const ModelOptions& options, const ConnectOptions& connect,
                    const PrivateModel& model, PrivacyStats& stats, OpStatsTable& ops);

  std::shared_ptr<ThreadPool> pool_;
  std::unique_ptr<ClientSession> dealer_;
  std::unique_ptr<LocalBackend> local_;  // of pads that this process makes
  std::optional<MeasuredBackend> products_;
  PadKey pad_key_{};
  std::unique_ptr<PadMaker> pads_;
  std::unique_ptr<PrivateBackend> backend_;
};

}  // namespace airlock
