#pragma once

#include <atomic>
#include <chrono>
#include <memory>
#include <string>

#include "base/pulse.h"
#include "base/status.h"
#include "runtime/model/config.h"
#include "runtime/model/model_source.h"
#include "runtime/rpc/client.h"
#include "tee_runner/generate/batch_engine.h"
#include "tee_runner/options.h"
#include "tee_runner/privacy/private_model.h"
#include "tee_runner/recording.h"
#include "tee_runner/stats_reporter.h"

namespace airlock {

/// Null where neither --model nor --synthetic was given.
Result<std::unique_ptr<ModelSource>> open_model(const ModelOptions& options);

/// What the driver needs of a model beside its weights.
struct ModelFacts {
  LlamaConfig config;
  Tensor norms;  // fp32 [2 * layers + 1, hidden]
};
/// By the server's word, of a session without a model of its own. kProtocolError where it
/// contradicts the handshake; errors as RemoteBackend::init().
Result<ModelFacts> ask_for_facts(ClientSession& session, std::chrono::nanoseconds timeout);

struct Driven;

/// Gives models that answer, as often as one is needed: in a session with the server that the
/// options name, or computed in this process. What is counted is in the reporter. One thread at a
/// time; the options and the reporter outlive it and what it gives.
class LlamaSource {
 public:
  /// `recording` of `prompt_tokens`: null, or what the first model's ops are written to; outlives
  /// it.
  LlamaSource(const TextOptions& options, std::unique_ptr<ModelSource> model,
              StatsReporter& reporter, Recording* recording = nullptr,
              std::size_t prompt_tokens = 0)
      : options_(options),
        model_(std::move(model)),
        reporter_(reporter),
        recording_(recording),
        prompt_tokens_(prompt_tokens) {}

  /// Errors as ClientSession::connect(), LlamaDriver::create() and CpuModel::create(). Without a
  /// model of one's own it may be another one each time.
  Result<std::unique_ptr<EngineModel>> make();
  /// Whether the last make() failed because the server, or the dealer, refused.
  bool was_refused() const { return was_refused_; }
  /// Ends a make() that waits for a server, from any thread, and each one after it; and each wait
  /// of what it gave (kCancelled).
  void cancel() { cancelled_.store(true, std::memory_order_relaxed); }
  /// Beats where its models wait or compute an op.
  Pulse& pulse() { return pulse_; }
  /// After the first make().
  const LlamaConfig& config() const { return config_; }

 private:
  Result<std::string> digest();
  Result<std::unique_ptr<EngineModel>> make_local();
  Result<std::unique_ptr<EngineModel>> make_tee_only();
  Status drive(Driven& driven, ModelFacts facts, const ConnectOptions& connect, Backend& asked,
               DType wire, std::shared_ptr<ThreadPool> pool);
  Result<std::unique_ptr<EngineModel>> make_remote();
  void describe(const BackendInfo& info, DType wire);
  Result<Backend*> recorded(Backend& backend, const std::optional<PathPolicy>& policy, DType wire);

  const TextOptions& options_;
  const std::unique_ptr<ModelSource> model_;
  StatsReporter& reporter_;
  Recording* const recording_;
  const std::size_t prompt_tokens_;
  std::unique_ptr<PrivateModel> private_model_;  // of a private mode, from the first make() on
  LlamaConfig config_;
  std::string digest_;  // the model's, once it was read
  bool is_described_ = false;
  bool was_refused_ = false;
  std::atomic<bool> cancelled_{false};
  Pulse pulse_;
};

}  // namespace airlock
