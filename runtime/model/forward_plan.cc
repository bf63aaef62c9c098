#include "runtime/model/forward_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <initializer_list>
#include <string_view>
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

/// The one description of what a pass asks for. Lists the ops of the first layer alone.
class Lister {
 public:
  Lister(const ModelDims& dims, const ForwardShape& shape) : dims_(dims), shape_(shape) {}

  std::vector<PlannedOp> ops;

  void add_embedding() {
    add(Step::kEmbed, embedding_spec(shape_.tokens, shape_.wire), {0, shape_.tokens});
  }

  void add_layer() {
    const Tile all{0, shape_.tokens};
    add_linear(Step::kQkv, {WeightKind::kQ, WeightKind::kK, WeightKind::kV}, dims_.hidden, all);
    if (shape_.attention == Attention::kOffload) add_attention();
    add_linear(Step::kAttentionOut, {WeightKind::kO}, dims_.heads * dims_.head_dim, all);
    const auto row_bytes = dims_.intermediate * static_cast<std::int64_t>(dtype_bytes(shape_.wire));
    for_each_part(0, row_bytes, [&](const Tile& rows) {
      add_linear(Step::kGateUp, {WeightKind::kGate, WeightKind::kUp}, dims_.hidden, rows);
      add_linear(Step::kDown, {WeightKind::kDown}, dims_.intermediate, rows);
    });
  }

  void add_logits() {
    if (shape_.logits == Logits::kNone) return;
    const std::int64_t first = shape_.logits == Logits::kAll ? 0 : shape_.tokens - 1;
    const std::int64_t row_bytes = dims_.vocab * std::int64_t{sizeof(float)};
    for_each_part(first, row_bytes, [&](const Tile& rows) {
      add(Step::kLogits, lm_head_spec({shape_.wire, {rows.row_count, dims_.hidden}}), rows);
    });
  }

 private:
  void add(Step step, OpSpec spec, const Tile& tile) {
    ops.push_back({std::move(spec), std::nullopt, step, tile});
  }

  void add_linear(Step step, std::initializer_list<WeightKind> kinds, std::int64_t width,
                  const Tile& rows) {
    std::vector<WeightId> weights;
    for (const WeightKind kind : kinds) weights.push_back({kind, 0});
    add(step, linear_spec(std::move(weights), {shape_.wire, {rows.row_count, width}}, shape_.wire),
        rows);
  }

  /// Scores within max_score_bytes: in one tile where they are, else by whole key-value heads, else
  /// one of these at a time by rows (at least one).
  void add_attention() {
    const std::int64_t group = dims_.heads / dims_.kv_heads;
    // Of one query row of one key-value head.
    const std::int64_t row_bytes = group * (shape_.position + shape_.tokens) *
                                   static_cast<std::int64_t>(dtype_bytes(shape_.wire));
    const std::int64_t groups = std::clamp<std::int64_t>(
        shape_.max_score_bytes / (row_bytes * shape_.tokens), 1, dims_.kv_heads);
    const std::int64_t rows =
        std::clamp<std::int64_t>(shape_.max_score_bytes / (row_bytes * groups), 1, shape_.tokens);
    for (std::int64_t first = 0; first < dims_.kv_heads; first += groups) {
      for (std::int64_t row = 0; row < shape_.tokens; row += rows) {
        // create() refuses that many; no more of them are held until then.
        if (ops.size() * static_cast<std::size_t>(dims_.layers) > kMaxPlannedOps) return;
        add_tile({row, std::min(rows, shape_.tokens - row), first,
                  std::min(groups, dims_.kv_heads - first)});
      }
    }
  }

  void add_tile(const Tile& tile) {
    const std::int64_t heads = tile.group_count * (dims_.heads / dims_.kv_heads);
    const std::int64_t keys = shape_.position + tile.first_row + tile.row_count;
    const TensorDesc queries{shape_.wire, {heads, tile.row_count, dims_.head_dim}};
    const TensorDesc cached{shape_.wire, {tile.group_count, keys, dims_.head_dim}};
    const TensorDesc scores{shape_.wire, {heads, tile.row_count, keys}};
    add(Step::kScores, matmul_spec(queries, cached, Transpose::kB, shape_.wire), tile);
    add(Step::kValues, matmul_spec(scores, cached, Transpose::kNone, shape_.wire), tile);
  }

  /// Rows [first, tokens) in parts whose results, of `row_bytes` a row, stay within 256 MiB.
  void for_each_part(std::int64_t first, std::int64_t row_bytes, auto take) const {
    const std::int64_t step = std::max<std::int64_t>((std::int64_t{256} << 20) / row_bytes, 1);
    for (; first < shape_.tokens; first += step)
      take(Tile{first, std::min(step, shape_.tokens - first)});
  }

  const ModelDims& dims_;
  const ForwardShape& shape_;
};

}  // namespace

Result<ForwardPlan> ForwardPlan::create(const ModelDims& dims, const ForwardShape& shape) {
  const auto refuse = [&](StatusCode code, std::string_view why) {
    return Status(code, fmt::format("a pass over {} tokens from position {}: {}", shape.tokens,
                                    shape.position, why));
  };
  if (shape.tokens < 1 || shape.position < 0 || shape.position > limits::kMaxTokens ||
      shape.tokens > limits::kMaxTokens - shape.position) {
    return refuse(StatusCode::kInvalidInput,
                  fmt::format("there are positions from 0 to {}", limits::kMaxTokens - 1));
  }
  Lister lister(dims, shape);
  lister.add_embedding();
  lister.add_layer();
  ForwardPlan plan;
  plan.layers_ = static_cast<std::size_t>(dims.layers);
  plan.layer_ops_ = lister.ops.size() - 1;
  lister.add_logits();
  plan.ops_ = std::move(lister.ops);
  if (plan.size() > kMaxPlannedOps) {
    return refuse(StatusCode::kResourceExhausted,
                  fmt::format("it takes more than {} ops with this config", kMaxPlannedOps));
  }
  for (const PlannedOp& op : plan.ops_) {
    const Status fits = op_results(op.spec, dims).status();
    if (!fits.ok())
      return refuse(fits.code(), fmt::format("{}: {}", name_of(op.spec.op), fits.message()));
  }
  return plan;
}

PlannedOp ForwardPlan::operator[](std::size_t index) const {
  const std::size_t layers_end = 1 + layers_ * layer_ops_;
  if (index == 0 || index >= layers_end)
    return ops_[index == 0 ? 0 : index - (layers_end - 1 - layer_ops_)];
  PlannedOp op = ops_[1 + (index - 1) % layer_ops_];
  op.layer = static_cast<std::uint16_t>((index - 1) / layer_ops_);
  for (WeightId& weight : op.spec.weights) weight.layer = *op.layer;
  return op;
}

}  // namespace airlock
