#include "gpu_server/op_limit.h"

#include <algorithm>

#include "proto/limits.h"
#include "proto/op.h"

namespace airlock {

namespace {
// About a second of one core.
constexpr std::uint64_t kFreeFlop = 100'000'000'000;
constexpr std::int64_t kPositionsFactor = 4;
}  // namespace

std::uint64_t default_max_op_flop(const LlamaConfig& config) {
  const ModelDims& dims = config.dims;
  // Of positions that a config may name, any number.
  const std::int64_t positions =
      std::clamp<std::int64_t>(config.max_position_embeddings, 1, limits::kMaxTokens);
  const std::int64_t tokens = std::min(kPositionsFactor * positions, limits::kMaxTokens);
  const TensorDesc hidden{DType::kF32, {tokens, dims.hidden}};
  const TensorDesc inner{DType::kF32, {tokens, dims.intermediate}};
  const TensorDesc heads{DType::kF32, {dims.heads, tokens, dims.head_dim}};
  const TensorDesc groups{DType::kF32, {dims.kv_heads, tokens, dims.head_dim}};
  return std::max(
      {kFreeFlop,
       op_flop(linear_spec({{WeightKind::kQ, 0}, {WeightKind::kK, 0}, {WeightKind::kV, 0}}, hidden,
                           DType::kF32),
               dims),
       op_flop(linear_spec({{WeightKind::kGate, 0}, {WeightKind::kUp, 0}}, hidden, DType::kF32),
               dims),
       op_flop(linear_spec({{WeightKind::kDown, 0}}, inner, DType::kF32), dims),
       // Of private sessions; logits of as many words are fewer rows, an eighth or a quarter.
       op_flop(int_linear_spec({{WeightKind::kGate, 0}, {WeightKind::kUp, 0}}, kMaxInt8Planes,
                               tokens, dims),
               dims),
       op_flop(int_linear_spec({{WeightKind::kQ, 0}, {WeightKind::kK, 0}, {WeightKind::kV, 0}},
                               kMaxInt8Planes, tokens, dims),
               dims),
       op_flop(matmul_spec(heads, groups, Transpose::kB, DType::kF32), dims),
       op_flop(lm_head_spec(hidden), dims)});
}

}  // namespace airlock
