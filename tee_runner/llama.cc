#include "tee_runner/llama.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>
#include <vector>

#include "base/convert.h"
#include "base/log.h"
#include "base/thread_pool.h"
#include "proto/limits.h"
#include "tee_runner/attention.h"
#include "tee_runner/heads.h"
#include "tee_runner/kernels.h"

namespace airlock {

namespace {

/// Books one call of a kernel while it lives.
class KernelTimer {
 public:
  KernelTimer(TeeStatsTable& stats, TeeKernel kernel)
      : stats_(stats[kernel]), start_ns_(now_ns()) {}
  ~KernelTimer() { merge(stats_, TeeKernelSnapshot{1, now_ns() - start_ns_}); }
  KernelTimer(const KernelTimer&) = delete;
  KernelTimer& operator=(const KernelTimer&) = delete;

 private:
  TeeKernelStats& stats_;
  std::uint64_t start_ns_;
};

class Driver : public LlamaDriver {
 public:
  Driver(const LlamaConfig& config, Tensor norms, const LlamaOptions& options, Backend& backend,
         TeeStatsTable& stats)
      : config_(config),
        norms_(std::move(norms)),
        options_(options),
        backend_(backend),
        stats_(stats),
        pool_(options.threads) {}

  Result<Tensor> prefill(std::span<const std::int32_t> tokens) override;

 private:
  using Op = std::unique_ptr<Pending>;  // an op under way; the enum is airlock::Op

  Result<Op> begin(const OpSpec& spec, int timeouts = 1);
  Status finish(Pending& op, const OpSpec& spec);
  Status embed(std::span<const std::int32_t> tokens);
  Status attention(std::uint16_t layer);
  Result<Op> offloaded_attention(Op qkv, const OpSpec& out_spec);
  Result<Op> weigh_values(Op& qkv, const AttentionTile& tile);
  Status feed_forward(std::uint16_t layer);
  Result<Tensor> logits();

  const float* norm(std::size_t row) const {
    return norms_.as<float>().data() + row * static_cast<std::size_t>(config_.dims.hidden);
  }
  void normalise(std::size_t norm_row, std::int64_t first_row, MutableTensorView out) {
    const KernelTimer timer(stats_, TeeKernel::kRmsNorm);
    rms_norm(pool_, hidden_, first_row, norm(norm_row), config_.rms_norm_eps, out);
  }
  void add(TensorView delta, std::int64_t first_row) {
    const KernelTimer timer(stats_, TeeKernel::kResidual);
    add_residual(pool_, delta, first_row, hidden_);
  }
  TensorDesc wire(std::int64_t rows, std::int64_t width) const {
    return {options_.wire, {rows, width}};
  }

  LlamaConfig config_;
  Tensor norms_;
  LlamaOptions options_;
  Backend& backend_;
  TeeStatsTable& stats_;
  ThreadPool pool_;
  std::int64_t tokens_ = 0;
  Tensor hidden_;   // fp32 [tokens, hidden]
  RopeTable rope_;  // of tokens_ positions
  std::vector<AttentionTile> tiles_;
};

Result<Driver::Op> Driver::begin(const OpSpec& spec, int timeouts) {
  return backend_.prepare(spec, Deadline::after(timeouts * options_.op_timeout));
}

Status Driver::finish(Pending& op, const OpSpec& spec) {
  return op.wait().with_context(name_of(spec.op));
}

Result<Tensor> Driver::prefill(std::span<const std::int32_t> tokens) {
  RETURN_IF_ERROR(check_tokens(tokens, config_.dims.vocab));
  const auto count = static_cast<std::int64_t>(tokens.size());
  if (count != tokens_) {
    if (count > config_.max_position_embeddings) {
      log_warning(fmt::format(
          "{} tokens are more than the model's max_position_embeddings, {}: results may be poor",
          count, config_.max_position_embeddings));
    }
    tokens_ = count;
    hidden_ = Tensor({DType::kF32, {count, config_.dims.hidden}});
    rope_ = make_rope_table(config_, count);
    tiles_ = plan_attention(config_.dims, count, options_.wire);
  }
  RETURN_IF_ERROR(embed(tokens));
  for (std::int64_t layer = 0; layer < config_.dims.layers; ++layer) {
    RETURN_IF_ERROR(attention(static_cast<std::uint16_t>(layer)));
    RETURN_IF_ERROR(feed_forward(static_cast<std::uint16_t>(layer)));
  }
  return logits();
}

Status Driver::embed(std::span<const std::int32_t> tokens) {
  const OpSpec spec = embedding_spec(tokens_, options_.wire);
  ASSIGN_OR_RETURN(const Op op, begin(spec));
  std::memcpy(op->input(0).data, tokens.data(), tokens.size_bytes());
  RETURN_IF_ERROR(op->submit());
  RETURN_IF_ERROR(finish(*op, spec));
  convert(op->result(0), hidden_.mutable_view());
  return {};
}

Status Driver::attention(std::uint16_t layer) {
  const ModelDims& dims = config_.dims;
  const OpSpec spec =
      linear_spec({{WeightKind::kQ, layer}, {WeightKind::kK, layer}, {WeightKind::kV, layer}},
                  wire(tokens_, dims.hidden), options_.wire);
  ASSIGN_OR_RETURN(Op qkv, begin(spec));
  normalise(2 * std::size_t{layer}, 0, qkv->input(0));
  RETURN_IF_ERROR(qkv->submit());
  RETURN_IF_ERROR(finish(*qkv, spec));

  const OpSpec out_spec = linear_spec({{WeightKind::kO, layer}},
                                      wire(tokens_, dims.heads * dims.head_dim), options_.wire);
  Op out;
  if (options_.attention == Attention::kTee) {
    ASSIGN_OR_RETURN(out, begin(out_spec));
    const KernelTimer timer(stats_, TeeKernel::kAttention);
    blocked_attention(pool_, dims, rope_, qkv->result(0), qkv->result(1), qkv->result(2),
                      out->input(0));
    qkv.reset();
  } else {
    ASSIGN_OR_RETURN(out, offloaded_attention(std::move(qkv), out_spec));
  }
  RETURN_IF_ERROR(out->submit());
  RETURN_IF_ERROR(finish(*out, out_spec));
  add(out->result(0), 0);
  return {};
}

/// o_proj, prepared, with the attention's output in its loan.
Result<Driver::Op> Driver::offloaded_attention(Op qkv, const OpSpec& out_spec) {
  const std::int64_t heads_per_group = config_.dims.heads / config_.dims.kv_heads;
  // Several tiles are gathered in private memory: o_proj's loan and deadline must not wait for all
  // of their products.
  Tensor gathered;
  if (tiles_.size() > 1) gathered = Tensor(out_spec.inputs[0]);
  Op out;
  for (const AttentionTile& tile : tiles_) {
    ASSIGN_OR_RETURN(const Op values, weigh_values(qkv, tile));
    if (&tile == &tiles_.back()) {
      ASSIGN_OR_RETURN(out, begin(out_spec));
    }
    const KernelTimer timer(stats_, TeeKernel::kAttention);
    const HeadTile heads{tile.first_group * heads_per_group, tile.group_count * heads_per_group,
                         tile.first_row, tile.row_count};
    merge_heads(pool_, values->result(0), heads,
                tiles_.size() > 1 ? gathered.mutable_view() : out->input(0));
  }
  if (tiles_.size() > 1)
    std::memcpy(out->input(0).data, gathered.view().data, gathered.desc().bytes());
  return out;
}

/// The finished PV of one tile, [heads, rows, head_dim]. Drops `qkv` after the last tile has read
/// it.
Result<Driver::Op> Driver::weigh_values(Op& qkv, const AttentionTile& tile) {
  const ModelDims& dims = config_.dims;
  const std::int64_t heads_per_group = dims.heads / dims.kv_heads;
  const std::int64_t heads = tile.group_count * heads_per_group;
  const HeadTile key_tile{tile.first_group, tile.group_count, 0, tile.keys()};

  const OpSpec qk_spec = score_spec(dims, tile, options_.wire);
  ASSIGN_OR_RETURN(Op scores, begin(qk_spec));
  {
    const KernelTimer timer(stats_, TeeKernel::kRope);
    rotate_heads(pool_, rope_, qkv->result(0),
                 {tile.first_group * heads_per_group, heads, tile.first_row, tile.row_count},
                 scores->input(0));
    rotate_heads(pool_, rope_, qkv->result(1), key_tile, scores->input(1));
  }
  RETURN_IF_ERROR(scores->submit());

  // PV is prepared while QK^T is under way, so that the values move meanwhile; hence twice the
  // time.
  const OpSpec pv_spec = value_spec(dims, tile, options_.wire);
  ASSIGN_OR_RETURN(Op values, begin(pv_spec, 2));
  {
    const KernelTimer timer(stats_, TeeKernel::kAttention);
    split_heads(pool_, qkv->result(2), key_tile, values->input(1));
  }
  if (&tile == &tiles_.back()) qkv.reset();
  RETURN_IF_ERROR(finish(*scores, qk_spec));
  {
    const KernelTimer timer(stats_, TeeKernel::kSoftmax);
    const auto scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(dims.head_dim)));
    causal_softmax(pool_, scores->result(0), tile.first_row, scale, values->input(0));
  }
  scores.reset();
  RETURN_IF_ERROR(values->submit());
  RETURN_IF_ERROR(finish(*values, pv_spec));
  return values;
}

Status Driver::feed_forward(std::uint16_t layer) {
  const ModelDims& dims = config_.dims;
  const std::int64_t row_bytes =
      dims.intermediate * static_cast<std::int64_t>(dtype_bytes(options_.wire));
  const std::int64_t step = rows_per_op(tokens_, row_bytes);
  for (std::int64_t first = 0; first < tokens_; first += step) {
    const std::int64_t rows = std::min(step, tokens_ - first);
    const OpSpec up_spec = linear_spec({{WeightKind::kGate, layer}, {WeightKind::kUp, layer}},
                                       wire(rows, dims.hidden), options_.wire);
    ASSIGN_OR_RETURN(Op gate_up, begin(up_spec));
    normalise(2 * std::size_t{layer} + 1, first, gate_up->input(0));
    RETURN_IF_ERROR(gate_up->submit());
    RETURN_IF_ERROR(finish(*gate_up, up_spec));

    const OpSpec down_spec =
        linear_spec({{WeightKind::kDown, layer}}, wire(rows, dims.intermediate), options_.wire);
    ASSIGN_OR_RETURN(const Op down, begin(down_spec));
    {
      const KernelTimer timer(stats_, TeeKernel::kSilu);
      silu_multiply(pool_, gate_up->result(0), gate_up->result(1), down->input(0));
    }
    gate_up.reset();
    RETURN_IF_ERROR(down->submit());
    RETURN_IF_ERROR(finish(*down, down_spec));
    add(down->result(0), first);
  }
  return {};
}

Result<Tensor> Driver::logits() {
  const ModelDims& dims = config_.dims;
  const std::int64_t rows = options_.logits == Logits::kAll ? tokens_ : 1;
  const std::int64_t row_bytes = dims.vocab * static_cast<std::int64_t>(sizeof(float));
  const std::int64_t step = rows_per_op(rows, row_bytes);
  Tensor all({DType::kF32, {rows, dims.vocab}});
  for (std::int64_t first = 0; first < rows; first += step) {
    const std::int64_t count = std::min(step, rows - first);
    const OpSpec spec = lm_head_spec(wire(count, dims.hidden));
    ASSIGN_OR_RETURN(const Op op, begin(spec));
    normalise(2 * static_cast<std::size_t>(dims.layers), tokens_ - rows + first, op->input(0));
    RETURN_IF_ERROR(op->submit());
    RETURN_IF_ERROR(finish(*op, spec));
    std::memcpy(all.mutable_view().data + first * row_bytes, op->result(0).data,
                op->result(0).desc.bytes());
  }
  return all;
}

}  // namespace

Status check_tokens(std::span<const std::int32_t> tokens, std::int64_t vocab) {
  if (tokens.empty())
    return {StatusCode::kInvalidInput, "the prompt is empty: give at least one token id"};
  if (tokens.size() > static_cast<std::size_t>(limits::kMaxTokens)) {
    return {StatusCode::kInvalidInput,
            fmt::format("{} tokens are too many: at most {}", tokens.size(), limits::kMaxTokens)};
  }
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] < 0 || tokens[i] >= vocab) {
      return {
          StatusCode::kInvalidInput,
          fmt::format("token id {} at position {} is not in the vocabulary: ids go from 0 to {}",
                      tokens[i], i, vocab - 1)};
    }
  }
  return {};
}

Result<std::unique_ptr<LlamaDriver>> LlamaDriver::create(const LlamaConfig& config, Tensor norms,
                                                         const LlamaOptions& options,
                                                         Backend& backend, TeeStatsTable& stats) {
  RETURN_IF_ERROR(config.dims.check());
  if (config.dims.head_dim % 2 != 0) {
    return Status(StatusCode::kInvalidInput,
                  fmt::format("head_dim {} is odd: rotary embeddings need an even one",
                              config.dims.head_dim));
  }
  if (!(config.dims == backend.info().dims)) {
    return Status(StatusCode::kMismatch, "the backend serves a model of other dimensions");
  }
  const TensorDesc expected{DType::kF32, {2 * config.dims.layers + 1, config.dims.hidden}};
  if (!(norms.desc() == expected)) {
    return Status(StatusCode::kInvalidInput,
                  fmt::format("norm weights have shape {}, expected fp32 {}",
                              norms.desc().shape.to_string(), expected.shape.to_string()));
  }
  if (!is_float(options.wire) || options.threads < 1 || options.threads > limits::kMaxThreads) {
    return Status(StatusCode::kInvalidInput,
                  "the wire type must be a float type and threads at least 1");
  }
  return std::unique_ptr<LlamaDriver>(
      std::make_unique<Driver>(config, std::move(norms), options, backend, stats));
}

}  // namespace airlock
