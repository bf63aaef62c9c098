#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <span>

#include "base/status.h"
#include "base/tensor.h"
#include "runtime/backend.h"
#include "runtime/model/config.h"
#include "runtime/model/prefill_plan.h"
#include "runtime/stats/op_stats.h"

namespace airlock {

struct LlamaOptions {
  DType wire = DType::kF32;  // type of each float tensor at the Backend seam
  Attention attention = Attention::kOffload;
  Logits logits = Logits::kLast;
  std::size_t threads = 1;  // of the TEE kernels, the caller's included
  std::chrono::nanoseconds op_timeout = std::chrono::seconds(300);
};

/// kInvalidInput, with value and range: no token, more than limits::kMaxTokens, or an id beyond the
/// vocabulary.
Status check_tokens(std::span<const std::int32_t> tokens, std::int64_t vocab);

/// LLaMA's prefill as Hugging Face defines it: keeps hidden states (fp32), norms, RoPE, softmax,
/// SiLU and residuals in this process and asks a Backend for the rest. What a backend returns is
/// data, never a size or an index. One thread.
class LlamaDriver {
 public:
  /// norms: fp32 [2 * layers + 1, hidden]. kMismatch where the backend serves other dimensions;
  /// kInvalidInput for norms of another shape or an odd head_dim. Backend and statistics outlive
  /// the driver.
  static Result<std::unique_ptr<LlamaDriver>> create(const LlamaConfig& config, Tensor norms,
                                                     const LlamaOptions& options, Backend& backend,
                                                     TeeStatsTable& stats);
  virtual ~LlamaDriver() = default;
  /// fp32 [1, vocab] or [tokens, vocab]. kInvalidInput as check_tokens(). More tokens than
  /// max_position_embeddings: a warning, once.
  virtual Result<Tensor> prefill(std::span<const std::int32_t> tokens) = 0;
};

}  // namespace airlock
