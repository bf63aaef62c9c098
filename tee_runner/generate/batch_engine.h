#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <unordered_set>
#include <vector>

#include "base/log_limiter.h"
#include "base/pulse.h"
#include "base/status.h"
#include "tee_runner/generate/engine.h"
#include "tee_runner/generate/prefix_store.h"
#include "tee_runner/llama/driver.h"

namespace airlock {

/// A model that answers: in a session with a server, or in this process. One thread.
class EngineModel {
 public:
  virtual ~EngineModel() = default;
  virtual LlamaDriver& driver() = 0;
  /// Whether it is there, and what it gave can be trusted to be its word; else why not.
  virtual Status check() = 0;
};

/// Has `model` compute a token, so that what it stands on is known to work. kMismatch: its answer
/// failed a check, also where who gave it has hung up since. Where it computes.
Status try_model(EngineModel& model);

struct BatchEngineOptions {
  ModelDims dims;
  std::int64_t context_length = 0;  // max_position_embeddings, or less
  DType cache_dtype = DType::kF32;
  // For the keys and values of all sequences, those kept for a next turn included.
  std::uint64_t cache_bytes = std::uint64_t{1} << 30;
  // Answers under way at once; prompts that wait beside them.
  std::size_t max_sequences = 16;
  std::size_t max_queue = 64;
  // Tokens of prompts that one pass takes where no answer is under way.
  std::int64_t chunk_alone = 512;
  // Rows of a pass where some are, theirs included; a quarter of them is for prompts in any case.
  // So many rows cost hardly more than one (docs/adr/0023).
  std::int64_t rows_beside = 24;
  // Gives a model again after one has gone, which is taken once it was tried (try_model()) and
  // else asked for again; empty: the engine ends with its first.
  std::function<Result<std::unique_ptr<EngineModel>>()> reconnect;
  std::chrono::milliseconds reconnect_pause{500};
  // For how long one is asked for; nullopt: for ever.
  std::optional<std::chrono::nanoseconds> reconnect_for;
  // Called on the engine's thread when it gives up for good, with what health() says from then on:
  // an answer of the model's failed its check (kMismatch), that to try_model() too; it has gone and
  // no other one may be asked for; none came within reconnect_for (the code of the last attempt);
  // the engine itself failed. Where there is no memory for its words health() has none. May be
  // empty.
  std::function<void(const Status&)> gave_up;
  // Beaten by the engine's thread, and by its models where they wait; null: one of its own.
  // Outlives it.
  Pulse* pulse = nullptr;
  // liveness() fails after so long without a beat: beyond the longest that its thread computes
  // without an op, which is attention in the TEE, of one layer, of a piece of a prompt behind the
  // longest context on few slow cores.
  std::chrono::nanoseconds stall_after = std::chrono::seconds(120);
};

/// The engine: a thread of its own makes one pass after the other over all sequences under way.
/// Each gives one token that it chose, or the next piece of its prompt, and they join and leave
/// between any two passes. Memory is taken as an answer grows; where there is none left, what is
/// kept for later goes first, then the youngest sequence gives its own back and begins again as
/// the first of those that wait, with the same words. Thread-safe.
class BatchEngine : public Engine {
 public:
  /// `stats` outlives it. Errors as CacheMemory::create(); kResourceExhausted without a thread.
  static Result<std::unique_ptr<BatchEngine>> create(BatchEngineOptions options,
                                                     std::unique_ptr<EngineModel> model,
                                                     TextStats& stats);
  /// Answers under way end (FinishReason::kCancelled).
  ~BatchEngine() override;

  Result<GenerationId> submit(GenerateRequest request, std::shared_ptr<TokenSink> sink) override;
  void cancel(GenerationId id) override;
  std::int64_t context_length() const override { return options_.context_length; }
  Status health() const override;
  Status liveness() const override;
  EngineFigures figures() const override;

 private:
  struct Sequence;
  using Sequences = std::deque<std::unique_ptr<Sequence>>;

  BatchEngine(BatchEngineOptions options, std::unique_ptr<EngineModel> model, TextStats& stats,
              std::shared_ptr<CacheMemory> memory);
  Status check_request(const GenerateRequest& request) const;
  void work();
  bool await_work();
  void look_at_model();
  void ask_for_model();
  void miss_model(const Status& why);
  void give_up(const Status& why);
  std::unique_ptr<Sequence> take_waiting();
  void admit();
  bool find_room(Sequence& sequence);
  bool promise(Sequence& sequence, std::size_t positions);
  void give_way();
  void drop_cancelled();
  void step();
  std::vector<SequencePass> plan_step();
  void take_logits(const std::vector<SequencePass>& passes, const Tensor& logits);
  void take_token(Sequence& sequence, std::span<const float> logits);
  void finish(Sequence& sequence, FinishReason reason, Status status = {});
  void fail_step(const Status& why);
  void fail_all(const Status& why);
  void show_figures();

  const BatchEngineOptions options_;
  Pulse own_pulse_;
  Pulse& pulse_;
  TextStats& stats_;
  const std::shared_ptr<CacheMemory> memory_;
  // The engine thread's.
  std::unique_ptr<EngineModel> model_;
  Sequences active_;
  PrefixStore kept_;
  LogLimiter failures_;
  std::optional<Deadline> reconnect_until_;  // while there is no model
  bool has_given_up_ = false;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  Sequences queue_;                             // guarded by mutex_, as are all below
  std::unordered_set<GenerationId> cancelled_;  // not looked at yet
  std::unordered_set<GenerationId> known_;      // not over
  GenerationId next_id_ = 1;
  Status health_;
  EngineFigures figures_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace airlock
