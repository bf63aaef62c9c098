#include "runtime/model/forward_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <initializer_list>
#include <span>
#include <utility>

#include "base/int8_rows.h"
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

/// Rows of a feed-forward whose activations stay within 256 MiB where they are computed: as fp32
/// those that cross as int8.
std::vector<Tile> feed_forward_parts(const ModelDims& dims, const ForwardShape& shape) {
  const DType held = shape.wire == DType::kI8 ? DType::kF32 : shape.wire;
  return parts_of(0, shape.tokens,
                  dims.intermediate * static_cast<std::int64_t>(dtype_bytes(held)));
}

/// Of one row tile. Scores within max_score_bytes: in one tile where they are, else by whole
/// key-value heads, else one of these at a time by rows (at least one).
std::vector<Tile> attention_tiles(const ModelDims& dims, const ForwardShape& shape,
                                  const Tile& of) {
  std::vector<Tile> tiles;
  const std::int64_t end = of.first_row + of.row_count;
  const std::int64_t all_keys = shape.position + end;
  const auto element = static_cast<std::int64_t>(dtype_bytes(shape.wire));
  // Of one query row of one key-value head.
  const std::int64_t row_bytes = dims.heads / dims.kv_heads * all_keys * element;
  // The keys of a tile are one tensor: with few rows and many cached keys it is what limits it.
  const std::int64_t key_bytes = all_keys * dims.head_dim * element;
  const std::int64_t most = std::clamp<std::int64_t>(
      static_cast<std::int64_t>(limits::kMaxTensorBytes) / key_bytes, 1, dims.kv_heads);
  const std::int64_t groups =
      std::clamp<std::int64_t>(shape.max_score_bytes / (row_bytes * of.row_count), 1, most);
  const std::int64_t rows =
      std::clamp<std::int64_t>(shape.max_score_bytes / (row_bytes * groups), 1, of.row_count);
  for (std::int64_t group = 0; group < dims.kv_heads; group += groups) {
    for (std::int64_t row = of.first_row; row < end; row += rows) {
      tiles.push_back(
          {row, std::min(rows, end - row), group, std::min(groups, dims.kv_heads - group)});
    }
  }
  return tiles;
}

/// The ops of a pass, as they are added.
class OpList {
 public:
  OpList(const ModelDims& dims, const ForwardShape& shape)
      : dims_(dims), shape_(shape), tiles_(row_tiles(dims, shape)) {}

  /// Of each tile of a group the ops of one step, then of the next one.
  void add_layer(std::uint16_t layer) {
    // Groups of about one size: a tile alone would overlap with nothing.
    const std::size_t groups = (tiles_.size() + kTilesUnderWay - 1) / kTilesUnderWay;
    const std::size_t most = (tiles_.size() + groups - 1) / groups;
    for (std::span<const Tile> left = tiles_; !left.empty() && !is_full();) {
      const auto group = left.first(std::min(left.size(), most));
      left = left.subspan(group.size());
      if (shape_.attention == Attention::kOffload) {
        add_attention(layer, group);
      } else {
        for (const Tile& rows : group) add_qkv(layer, rows);
      }
      for (const Tile& rows : group) linear(Step::kAttentionOut, {WeightKind::kO}, layer, rows);
      if (is_tiled()) add_feed_forward(layer, group);
    }
    if (is_tiled()) return;
    for (const Tile& part : feed_forward_parts(dims_, shape_)) add_feed_forward(layer, {&part, 1});
  }

  void add(PlannedOp op) { ops_.push_back(std::move(op)); }
  bool is_full() const { return ops_.size() > kMaxPlannedOps; }
  std::vector<PlannedOp> take() { return std::move(ops_); }

 private:
  void linear(Step step, std::initializer_list<WeightKind> kinds, std::uint16_t layer,
              const Tile& rows) {
    std::vector<WeightId> weights;
    for (const WeightKind kind : kinds) weights.push_back({kind, layer});
    const std::int64_t width = wire_columns(shape_.wire, weight_shape(dims_, *kinds.begin())[1]);
    add({linear_spec(std::move(weights), {shape_.wire, {rows.row_count, width}}, shape_.wire),
         layer, step, rows});
  }

  void add_qkv(std::uint16_t layer, const Tile& rows) {
    linear(Step::kQkv, {WeightKind::kQ, WeightKind::kK, WeightKind::kV}, layer, rows);
  }

  /// Where there are row tiles the scores of one are under way while those before them are weighed.
  /// Its q, k and v are asked for no sooner: they are held until its values have been sent, and
  /// what is held of more than half the ring is copied.
  void add_attention(std::uint16_t layer, std::span<const Tile> group) {
    std::optional<Tile> scored;
    add_qkv(layer, group.front());
    for (std::size_t i = 0; i < group.size(); ++i) {
      if (i + 1 < group.size()) add_qkv(layer, group[i + 1]);
      for (const Tile& tile : attention_tiles(dims_, shape_, group[i])) {
        product(Step::kScores, layer, tile);
        if (scored) product(Step::kValues, layer, *scored);
        scored = tile;
        if (!is_tiled()) {
          product(Step::kValues, layer, tile);
          scored.reset();
        }
        if (is_full()) return;
      }
    }
    if (scored) product(Step::kValues, layer, *scored);
  }

  void product(Step step, std::uint16_t layer, const Tile& tile) {
    const DType wire = shape_.wire;
    const std::int64_t heads = tile.group_count * (dims_.heads / dims_.kv_heads);
    const std::int64_t keys = shape_.position + tile.first_row + tile.row_count;
    const TensorDesc cached{wire, {tile.group_count, keys, dims_.head_dim}};
    if (step == Step::kScores) {
      const TensorDesc queries{wire, {heads, tile.row_count, dims_.head_dim}};
      add({matmul_spec(queries, cached, Transpose::kB, wire), layer, step, tile});
    } else {
      const TensorDesc scores{wire, {heads, tile.row_count, keys}};
      add({matmul_spec(scores, cached, Transpose::kNone, wire), layer, step, tile});
    }
  }

  void add_feed_forward(std::uint16_t layer, std::span<const Tile> tiles) {
    for (const Tile& rows : tiles)
      linear(Step::kGateUp, {WeightKind::kGate, WeightKind::kUp}, layer, rows);
    for (const Tile& rows : tiles) linear(Step::kDown, {WeightKind::kDown}, layer, rows);
  }

  bool is_tiled() const { return tiles_.size() > 1; }

  const ModelDims& dims_;
  const ForwardShape& shape_;
  const std::vector<Tile> tiles_;
  std::vector<PlannedOp> ops_;
};

/// The one description of what a pass asks for. Ends early behind kMaxPlannedOps.
std::vector<PlannedOp> list_ops(const ModelDims& dims, const ForwardShape& shape) {
  const DType wire = shape.wire;
  OpList ops(dims, shape);
  ops.add({embedding_spec(shape.tokens, wire), std::nullopt, Step::kEmbed, {0, shape.tokens}});
  for (std::uint16_t layer = 0; layer < dims.layers; ++layer) {
    ops.add_layer(layer);
    if (ops.is_full()) return ops.take();
  }
  if (shape.logits == Logits::kNone) return ops.take();
  const bool is_chosen = shape.logits == Logits::kChosen;
  const std::int64_t end = is_chosen ? shape.chosen_rows : shape.tokens;
  const std::int64_t first = shape.logits == Logits::kLast ? shape.tokens - 1 : 0;
  for (const Tile& rows : parts_of(first, end, dims.vocab * std::int64_t{sizeof(float)}))
    ops.add({lm_head_spec({wire, {rows.row_count, wire_columns(wire, dims.hidden)}}),
             {},
             Step::kLogits,
             rows});
  return ops.take();
}

}  // namespace

std::vector<Tile> row_tiles(const ModelDims& dims, const ForwardShape& shape) {
  if (shape.tile == 0) return {{0, shape.tokens}};
  std::int64_t rows = shape.tile;
  if (rows == kAutoTile) {
    const std::int64_t count =
        std::max(std::clamp<std::int64_t>(shape.tokens / kLeastAutoTile, 1, kTilesUnderWay),
                 (shape.tokens + kMostAutoTile - 1) / kMostAutoTile);
    rows = (shape.tokens + count - 1) / count;
    rows = (rows + kAutoTileStep - 1) / kAutoTileStep * kAutoTileStep;
  }
  // No more than a feed-forward takes at once.
  rows = std::min(rows, feed_forward_parts(dims, shape).front().row_count);
  std::vector<Tile> tiles;
  for (std::int64_t first = 0; first < shape.tokens; first += rows)
    tiles.push_back({first, std::min(rows, shape.tokens - first)});
  return tiles;
}

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
  if (shape.wire == DType::kI8 && shape.attention == Attention::kOffload) {
    return refuse({StatusCode::kInvalidInput,
                   "attention that is offloaded does not cross as int8: --attention tee"});
  }
  if (shape.tile < kAutoTile)
    return refuse({StatusCode::kInvalidInput, "tiles of {} tokens", shape.tile});
  std::vector<PlannedOp> plan;
  for (const ForwardShape& pass : split_prompt(shape, chunk)) {
    for (PlannedOp& op : list_ops(dims, pass)) plan.push_back(std::move(op));
    if (plan.size() > kMaxPlannedOps) {
      return refuse({StatusCode::kResourceExhausted,
                     "more than {} ops with this config; other pieces (--chunk) or larger tiles "
                     "(--tile) take fewer",
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
