#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <span>

#include "base/pulse.h"
#include "base/status.h"
#include "base/tensor.h"
#include "base/thread_pool.h"
#include "runtime/backend.h"
#include "runtime/model/config.h"
#include "runtime/model/forward_plan.h"
#include "runtime/stats/op_stats.h"
#include "tee_runner/llama/cached_attention.h"
#include "tee_runner/llama/kv_cache.h"
#include "tee_runner/llama/rope.h"

namespace airlock {

struct LlamaOptions {
  DType wire = DType::kF32;  // type of each float tensor at the Backend seam; kI8: of int8 rows,
                             // with attention in the TEE alone (kInvalidInput)
  Attention attention = Attention::kOffload;
  Logits logits = Logits::kLast;  // of prefill(); kLast or kAll
  std::int64_t chunk = 0;         // tokens that prefill() feeds at a time; 0: the whole prompt
  std::int64_t tile = 0;          // as ForwardShape::tile
  std::size_t threads = 1;        // of the TEE kernels, the caller's included
  std::int64_t max_score_bytes = kMaxScoreBytes;
  std::chrono::nanoseconds op_timeout = std::chrono::seconds(300);
  Pulse* pulse = nullptr;  // beats with each op; null: nobody looks. Outlives the driver
};

/// One sequence's part of a pass over several: the tokens behind what its cache holds.
struct SequencePass {
  std::span<const std::int32_t> tokens;  // at least one
  SequenceCache* cache = nullptr;
  bool wants_logits = true;  // of its last token
};

/// kInvalidInput, with value and range: no token, more than limits::kMaxTokens, or an id beyond the
/// vocabulary.
Status check_tokens(std::span<const std::int32_t> tokens, std::int64_t vocab);

/// LLaMA as Hugging Face defines it: keeps hidden states (fp32), norms, RoPE, softmax, SiLU,
/// residuals, keys and values in this process and asks a Backend for the rest, op by op as
/// plan_forward() lists them. It waits for an op where it needs its results: those of up to
/// kTilesUnderWay tiles are under way at once. What a backend returns is data, never a size or an
/// index. One thread.
class LlamaDriver {
 public:
  /// norms: fp32 [2 * layers + 1, hidden]. kMismatch where the backend serves other dimensions;
  /// kInvalidInput for norms of another shape or an odd head_dim; kResourceExhausted without
  /// threads. Backend and statistics outlive the driver.
  /// `pool` runs the TEE kernels: that of a backend which computes in this process, on this thread;
  /// null: one of the driver's own, of options.threads.
  static Result<std::unique_ptr<LlamaDriver>> create(const LlamaConfig& config, Tensor norms,
                                                     const LlamaOptions& options, Backend& backend,
                                                     TeeStatsTable& stats,
                                                     std::shared_ptr<ThreadPool> pool = nullptr);

  /// A cache for forward(), in the type in which attention needs keys and values: fp32 in the TEE,
  /// the wire's type where they are sent. Errors as KvCache::create().
  Result<KvCache> make_cache(std::int64_t capacity) const;

  /// One pass over `tokens` at the positions that follow those in `cache`, which get their keys and
  /// values. `cache` is one of make_cache(). fp32 [rows, vocab]: of the last token, of all or of
  /// none. Before anything is sent: kInvalidInput as check_tokens() or for another model's cache,
  /// kResourceExhausted where the cache has no room for the tokens, errors as
  /// plan_forward(). More positions than max_position_embeddings: a warning, once.
  Result<Tensor> forward(std::span<const std::int32_t> tokens, KvCache& cache, Logits logits);

  /// One pass over the next tokens of several sequences, which share each product of weights: its
  /// rows are theirs, one behind the other. Each attends in this process, to its own cache, whose
  /// memory is one for all of them and made for these dims; it has promised the room. fp32 [of
  /// those that want any, vocab], in their order. What a sequence gets does not depend on the
  /// others, as far as the backend's products do not (docs/adr/0012). Errors as forward(); then no
  /// cache has changed its length.
  Result<Tensor> forward(std::span<const SequencePass> sequences);

  /// The passes over a whole prompt, whose keys and values nobody asks for afterwards. Returns and
  /// refuses as forward().
  Result<Tensor> prefill(std::span<const std::int32_t> tokens);

 private:
  using PendingOp = std::unique_ptr<Pending>;
  struct Sent;
  struct Pass;

  LlamaDriver(const LlamaConfig& config, Tensor norms, const LlamaOptions& options,
              Backend& backend, TeeStatsTable& stats, std::shared_ptr<ThreadPool> pool);

  ForwardShape shape_of(std::size_t tokens, Logits logits, std::int64_t position) const;
  Status run(const ForwardShape& shape, std::span<const std::int32_t> tokens, KvCache& cache,
             std::span<float> logits);
  void prepare_positions(std::int64_t count);
  Status walk(const std::vector<PlannedOp>& plan, Pass& pass);
  Status take_step(const PlannedOp& op, Pass& pass);
  Status embed(const PlannedOp& op, Pass& pass);
  Status ask_normalised(const PlannedOp& op, std::int64_t norm, Pass& pass);
  Status ask_for_scores(const PlannedOp& op, Pass& pass);
  Status weigh_values(const PlannedOp& op, Pass& pass);
  Status ask_attended(const PlannedOp& op, Pass& pass);
  Status ask_down(const PlannedOp& op, Pass& pass);
  Status ask_for_logits(const PlannedOp& op, Pass& pass);
  void attend(const PlannedOp& op, const Pending& qkv, Pass& pass, MutableTensorView out);
  Status take_attended(const PlannedOp& op, Pass& pass, MutableTensorView out);
  Status land(Pass& pass);
  Result<Sent> take(Step step, const Tile& rows, Pass& pass);
  Result<PendingOp> begin(const PlannedOp& op, Pass& pass, int timeouts = 1);
  Status send(const PlannedOp& op, PendingOp pending, Pass& pass);

  const LlamaConfig config_;
  const Tensor norms_;
  const LlamaOptions options_;
  Backend& backend_;
  TeeStatsTable& stats_;
  const std::shared_ptr<ThreadPool> shared_pool_;
  ThreadPool& pool_ = *shared_pool_;
  RopeTable rope_;  // of the positions so far
  Tensor hidden_;   // fp32 [tokens, hidden] of the last pass
  bool warned_ = false;
};

}  // namespace airlock
