#include "runtime/model/prefill_plan.h"

#include <fmt/format.h>

#include <algorithm>

namespace airlock {

namespace {
constexpr std::int64_t kMaxResultBytes = std::int64_t{256} << 20;

/// How many ops rows_per_op() makes of `rows` rows.
std::uint64_t ops_of_rows(std::int64_t rows, std::int64_t row_bytes) {
  const std::int64_t step = rows_per_op(rows, row_bytes);
  return static_cast<std::uint64_t>((rows + step - 1) / step);
}

/// The length of plan_prefill(), without making it.
std::uint64_t count_ops(const ModelDims& dims, const PrefillShape& shape) {
  const auto wire_bytes = static_cast<std::int64_t>(dtype_bytes(shape.wire));
  std::uint64_t per_layer = 2 + 2 * ops_of_rows(shape.tokens, dims.intermediate * wire_bytes);
  if (shape.attention == Attention::kOffload) {
    per_layer += 2 * plan_attention(dims, shape.tokens, shape.wire).size();
  }
  const std::int64_t rows = shape.logits == Logits::kAll ? shape.tokens : 1;
  return 1 + per_layer * static_cast<std::uint64_t>(dims.layers) +
         ops_of_rows(rows, dims.vocab * std::int64_t{sizeof(float)});
}
}  // namespace

std::vector<AttentionTile> plan_attention(const ModelDims& dims, std::int64_t tokens, DType wire,
                                          std::int64_t max_bytes) {
  const std::int64_t row_bytes =  // of one query row of one group
      dims.heads / dims.kv_heads * tokens * static_cast<std::int64_t>(dtype_bytes(wire));
  const std::int64_t groups =
      std::clamp<std::int64_t>(max_bytes / (row_bytes * tokens), 1, dims.kv_heads);
  const std::int64_t rows = std::clamp<std::int64_t>(max_bytes / (row_bytes * groups), 1, tokens);
  std::vector<AttentionTile> tiles;
  for (std::int64_t group = 0; group < dims.kv_heads; group += groups) {
    for (std::int64_t row = 0; row < tokens; row += rows) {
      tiles.push_back(
          {group, std::min(groups, dims.kv_heads - group), row, std::min(rows, tokens - row)});
    }
  }
  return tiles;
}

OpSpec score_spec(const ModelDims& dims, const AttentionTile& tile, DType wire) {
  const std::int64_t heads = tile.group_count * (dims.heads / dims.kv_heads);
  const TensorDesc queries{wire, {heads, tile.row_count, dims.head_dim}};
  const TensorDesc keys{wire, {tile.group_count, tile.keys(), dims.head_dim}};
  return matmul_spec(queries, keys, Transpose::kB, wire);
}

OpSpec value_spec(const ModelDims& dims, const AttentionTile& tile, DType wire) {
  const std::int64_t heads = tile.group_count * (dims.heads / dims.kv_heads);
  const TensorDesc weights{wire, {heads, tile.row_count, tile.keys()}};
  const TensorDesc values{wire, {tile.group_count, tile.keys(), dims.head_dim}};
  return matmul_spec(weights, values, Transpose::kNone, wire);
}

std::int64_t rows_per_op(std::int64_t rows, std::int64_t row_bytes) {
  return std::clamp<std::int64_t>(kMaxResultBytes / row_bytes, 1, rows);
}

std::vector<PlannedOp> plan_prefill(const ModelDims& dims, const PrefillShape& shape) {
  const DType wire = shape.wire;
  const std::int64_t tokens = shape.tokens;
  const auto wire_bytes = static_cast<std::int64_t>(dtype_bytes(wire));
  const auto input = [&](std::int64_t rows, std::int64_t width) {
    return TensorDesc{wire, {rows, width}};
  };
  const std::vector<AttentionTile> tiles = plan_attention(dims, tokens, wire);
  std::vector<PlannedOp> ops;
  ops.push_back({embedding_spec(tokens, wire), std::nullopt});
  for (std::uint16_t layer = 0; layer < dims.layers; ++layer) {
    const auto linear = [&](std::vector<WeightKind> kinds, std::int64_t rows, std::int64_t width) {
      std::vector<WeightId> weights;
      for (const WeightKind kind : kinds) weights.push_back({kind, layer});
      ops.push_back({linear_spec(std::move(weights), input(rows, width), wire), layer});
    };
    linear({WeightKind::kQ, WeightKind::kK, WeightKind::kV}, tokens, dims.hidden);
    if (shape.attention == Attention::kOffload) {
      for (const AttentionTile& tile : tiles) {
        ops.push_back({score_spec(dims, tile, wire), layer});
        ops.push_back({value_spec(dims, tile, wire), layer});
      }
    }
    linear({WeightKind::kO}, tokens, dims.heads * dims.head_dim);
    const std::int64_t step = rows_per_op(tokens, dims.intermediate * wire_bytes);
    for (std::int64_t first = 0; first < tokens; first += step) {
      const std::int64_t rows = std::min(step, tokens - first);
      linear({WeightKind::kGate, WeightKind::kUp}, rows, dims.hidden);
      linear({WeightKind::kDown}, rows, dims.intermediate);
    }
  }
  const std::int64_t rows = shape.logits == Logits::kAll ? tokens : 1;
  const std::int64_t step = rows_per_op(rows, dims.vocab * std::int64_t{sizeof(float)});
  for (std::int64_t first = 0; first < rows; first += step) {
    ops.push_back({lm_head_spec(input(std::min(step, rows - first), dims.hidden)), std::nullopt});
  }
  return ops;
}

Result<std::vector<PlannedOp>> checked_plan(const ModelDims& dims, const PrefillShape& shape) {
  if (count_ops(dims, shape) > kMaxPlannedOps) {
    return Status(StatusCode::kResourceExhausted,
                  fmt::format("a prefill of {} tokens takes more than {} ops with this config",
                              shape.tokens, kMaxPlannedOps));
  }
  std::vector<PlannedOp> plan = plan_prefill(dims, shape);
  for (std::size_t i = 0; i < plan.size(); ++i) {
    if (const auto results = op_results(plan[i].spec, dims); !results.ok()) {
      return results.status().with_context(fmt::format("{} tokens: op {} of the prefill, {}",
                                                       shape.tokens, i, name_of(plan[i].spec.op)));
    }
  }
  return plan;
}

}  // namespace airlock
