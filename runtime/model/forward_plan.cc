#include "runtime/model/forward_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <initializer_list>
#include <utility>

#include "proto/limits.h"

namespace airlock {

std::vector<ForwardShape> split_prompt(const ForwardShape& prompt, std::int64_t chunk) {
  const std::int64_t step = chunk > 0 ? chunk : prompt.tokens;
  std::vector<ForwardShape> passes;
  for (std::int64_t first = 0; first < prompt.tokens; first += step) {
    ForwardShape pass = prompt;
    pass.position += first;
    pass.tokens = std::min(step, prompt.tokens - first);
    const bool last = first + pass.tokens == prompt.tokens;
    if (!last && prompt.logits == Logits::kLast) pass.logits = Logits::kNone;
    passes.push_back(pass);
  }
  return passes;
}

namespace {

/// Rows [first, end) in parts whose results, of `row_bytes` a row, stay within 256 MiB.
std::vector<Tile> parts_of(std::int64_t first, std::int64_t end, std::int64_t row_bytes) {
  const std::int64_t step = std::max<std::int64_t>((std::int64_t{256} << 20) / row_bytes, 1);
  std::vector<Tile> parts;
  for (; first < end; first += step) parts.push_back({first, std::min(step, end - first)});
  return parts;
}

/// Scores within max_score_bytes: in one tile where they are, else by whole key-value heads, else
/// one of these at a time by rows (at least one).
std::vector<Tile> attention_tiles(const ModelDims& dims, const ForwardShape& shape) {
  std::vector<Tile> tiles;
  if (shape.attention == Attention::kTee) return tiles;
  // Of one query row of one key-value head.
  const std::int64_t row_bytes = dims.heads / dims.kv_heads * (shape.position + shape.tokens) *
                                 static_cast<std::int64_t>(dtype_bytes(shape.wire));
  // The keys of a tile are one tensor: with few rows and many cached keys it is what limits it.
  const std::int64_t key_bytes = (shape.position + shape.tokens) * dims.head_dim *
                                 static_cast<std::int64_t>(dtype_bytes(shape.wire));
  const std::int64_t most = std::clamp<std::int64_t>(
      static_cast<std::int64_t>(limits::kMaxTensorBytes) / key_bytes, 1, dims.kv_heads);
  const std::int64_t groups =
      std::clamp<std::int64_t>(shape.max_score_bytes / (row_bytes * shape.tokens), 1, most);
  const std::int64_t rows =
      std::clamp<std::int64_t>(shape.max_score_bytes / (row_bytes * groups), 1, shape.tokens);
  for (std::int64_t group = 0; group < dims.kv_heads; group += groups) {
    for (std::int64_t row = 0; row < shape.tokens; row += rows) {
      tiles.push_back({row, std::min(rows, shape.tokens - row), group,
                       std::min(groups, dims.kv_heads - group)});
    }
  }
  return tiles;
}

/// The one description of what a pass asks for. Ends early behind kMaxPlannedOps.
std::vector<PlannedOp> list_ops(const ModelDims& dims, const ForwardShape& shape) {
  const DType wire = shape.wire;
  const Tile all{0, shape.tokens};
  const std::vector<Tile> tiles = attention_tiles(dims, shape);
  const std::vector<Tile> parts =
      parts_of(0, shape.tokens, dims.intermediate * static_cast<std::int64_t>(dtype_bytes(wire)));
  std::vector<PlannedOp> ops;
  ops.push_back({embedding_spec(shape.tokens, wire), std::nullopt, Step::kEmbed, all});
  for (std::uint16_t layer = 0; layer < dims.layers; ++layer) {
    const auto linear = [&](Step step, std::initializer_list<WeightKind> kinds, std::int64_t width,
                            const Tile& rows) {
      std::vector<WeightId> weights;
      for (const WeightKind kind : kinds) weights.push_back({kind, layer});
      ops.push_back({linear_spec(std::move(weights), {wire, {rows.row_count, width}}, wire), layer,
                     step, rows});
    };
    linear(Step::kQkv, {WeightKind::kQ, WeightKind::kK, WeightKind::kV}, dims.hidden, all);
    for (const Tile& tile : tiles) {
      const std::int64_t heads = tile.group_count * (dims.heads / dims.kv_heads);
      const std::int64_t keys = shape.position + tile.first_row + tile.row_count;
      const TensorDesc queries{wire, {heads, tile.row_count, dims.head_dim}};
      const TensorDesc cached{wire, {tile.group_count, keys, dims.head_dim}};
      const TensorDesc scores{wire, {heads, tile.row_count, keys}};
      ops.push_back(
          {matmul_spec(queries, cached, Transpose::kB, wire), layer, Step::kScores, tile});
      ops.push_back(
          {matmul_spec(scores, cached, Transpose::kNone, wire), layer, Step::kValues, tile});
      if (ops.size() > kMaxPlannedOps) return ops;
    }
    linear(Step::kAttentionOut, {WeightKind::kO}, dims.heads * dims.head_dim, all);
    for (const Tile& rows : parts) {
      linear(Step::kGateUp, {WeightKind::kGate, WeightKind::kUp}, dims.hidden, rows);
      linear(Step::kDown, {WeightKind::kDown}, dims.intermediate, rows);
    }
  }
  if (shape.logits == Logits::kNone) return ops;
  const bool is_chosen = shape.logits == Logits::kChosen;
  const std::int64_t end = is_chosen ? shape.chosen_rows : shape.tokens;
  const std::int64_t first = shape.logits == Logits::kLast ? shape.tokens - 1 : 0;
  for (const Tile& rows : parts_of(first, end, dims.vocab * std::int64_t{sizeof(float)}))
    ops.push_back({lm_head_spec({wire, {rows.row_count, dims.hidden}}), {}, Step::kLogits, rows});
  return ops;
}

}  // namespace

Result<std::vector<PlannedOp>> plan_forward(const ModelDims& dims, const ForwardShape& shape,
                                            std::int64_t chunk) {
  const auto refuse = [&](const Status& why) {
    return why.with_context(
        fmt::format("{} tokens from position {}", shape.tokens, shape.position));
  };
  if (shape.tokens < 1 || shape.position < 0 || shape.position > limits::kMaxTokens ||
      shape.tokens > limits::kMaxTokens - shape.position) {
    return refuse(
        {StatusCode::kInvalidInput, "there are positions from 0 to {}", limits::kMaxTokens - 1});
  }
  std::vector<PlannedOp> plan;
  for (const ForwardShape& pass : split_prompt(shape, chunk)) {
    for (PlannedOp& op : list_ops(dims, pass)) plan.push_back(std::move(op));
    if (plan.size() > kMaxPlannedOps) {
      return refuse({StatusCode::kResourceExhausted,
                     "more than {} ops with this config; feed the prompt in pieces (--chunk)",
                     kMaxPlannedOps});
    }
  }
  for (const PlannedOp& op : plan) {
    const auto results = op_results(op.spec, dims);
    if (!results.ok()) return refuse(results.status().with_context(name_of(op.spec.op)));
  }
  return plan;
}

}  // namespace airlock
