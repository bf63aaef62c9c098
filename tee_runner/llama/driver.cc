#include "tee_runner/llama/driver.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>
#include <vector>

#include "base/convert.h"
#include "base/log.h"
#include "proto/limits.h"
#include "tee_runner/llama/kernels.h"

namespace airlock {

namespace {

constexpr std::int64_t kMaxLogitsBytes = std::int64_t{128} << 30;

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

/// Keys and values in the type in which attention needs them, so that storing them loses nothing.
DType cache_dtype(const LlamaOptions& options) {
  return options.attention == Attention::kTee ? DType::kF32 : options.wire;
}

std::int64_t logits_rows(const ForwardShape& shape) {
  if (shape.logits == Logits::kChosen) return shape.chosen_rows;
  return shape.logits == Logits::kAll ? shape.tokens : shape.logits == Logits::kLast ? 1 : 0;
}

/// Before memory is taken or anything is sent. The dims may be a server's word, and logits are not
/// bounded by the plan, which asks for them in parts. Of a prompt's passes the last is the largest.
Status check_pass(const ModelDims& dims, const ForwardShape& shape, std::int64_t rows) {
  RETURN_IF_ERROR(plan_forward(dims, shape).status());
  const std::int64_t bytes = rows * dims.vocab * std::int64_t{sizeof(float)};
  if (bytes <= kMaxLogitsBytes) return {};
  return {StatusCode::kResourceExhausted,
          "logits of {} tokens take {} bytes, at most {} are held: ask for those of the last token",
          rows, bytes, kMaxLogitsBytes};
}

Status finish(const PlannedOp& op, Pending& pending) {
  const Status status = pending.wait();
  // What failed a check is not told of further (docs/PRIVACY.md).
  if (status.code() == StatusCode::kMismatch) return status;
  return status.with_context(name_of(op.spec.op));
}

bool is_first(const Tile& tile) { return tile.first_row == 0 && tile.first_group == 0; }

/// The queries of a tile.
HeadTile query_heads(const ModelDims& dims, const Tile& tile) {
  const std::int64_t group = dims.heads / dims.kv_heads;
  return {tile.first_group * group, tile.group_count * group, tile.first_row, tile.row_count};
}

}  // namespace

/// What is under way between the steps of one pass.
struct LlamaDriver::Pass {
  const ForwardShape& shape;
  std::span<const std::int32_t> tokens;
  KvCache* cache;                           // of a pass over one sequence
  std::span<const SequenceRows> sequences;  // of one over several
  std::span<float> logits;
  std::vector<std::int64_t> chosen = {};  // the rows of Logits::kChosen
  PendingOp qkv = {};
  PendingOp scores = {};
  PendingOp attention = {};  // the finished PV of attention that is one tile
  Tensor attended = {};      // [tokens, heads * head_dim] of attention that is several
  PendingOp gate_up = {};
};

LlamaDriver::LlamaDriver(const LlamaConfig& config, Tensor norms, const LlamaOptions& options,
                         Backend& backend, TeeStatsTable& stats, std::shared_ptr<ThreadPool> pool)
    : config_(config),
      norms_(std::move(norms)),
      options_(options),
      backend_(backend),
      stats_(stats),
      shared_pool_(std::move(pool)) {}

Result<KvCache> LlamaDriver::make_cache(std::int64_t capacity) const {
  return KvCache::create(config_.dims, cache_dtype(options_), capacity);
}

ForwardShape LlamaDriver::shape_of(std::size_t tokens, Logits logits, std::int64_t position) const {
  return {static_cast<std::int64_t>(tokens), options_.wire, options_.attention, logits, position,
          options_.max_score_bytes};
}

Result<Tensor> LlamaDriver::forward(std::span<const std::int32_t> tokens, KvCache& cache,
                                    Logits logits) {
  RETURN_IF_ERROR(check_tokens(tokens, config_.dims.vocab));
  RETURN_IF_ERROR(cache.check_room(config_.dims, cache_dtype(options_), tokens.size()));
  const ForwardShape shape = shape_of(tokens.size(), logits, cache.length());
  RETURN_IF_ERROR(check_pass(config_.dims, shape, logits_rows(shape)));
  Tensor result({DType::kF32, {logits_rows(shape), config_.dims.vocab}});
  RETURN_IF_ERROR(run(shape, tokens, cache, result.as<float>()));
  return result;
}

Result<Tensor> LlamaDriver::prefill(std::span<const std::int32_t> tokens) {
  RETURN_IF_ERROR(check_tokens(tokens, config_.dims.vocab));
  const ForwardShape prompt = shape_of(tokens.size(), options_.logits, 0);
  const std::vector<ForwardShape> passes = split_prompt(prompt, options_.chunk);
  RETURN_IF_ERROR(check_pass(config_.dims, passes.back(), logits_rows(prompt)));
  // Nobody goes on from here, so that one pass needs one layer's room at a time.
  ModelDims dims = config_.dims;
  if (passes.size() == 1) dims.layers = 1;
  ASSIGN_OR_RETURN(KvCache cache, KvCache::create(dims, cache_dtype(options_), prompt.tokens));
  Tensor result({DType::kF32, {logits_rows(prompt), config_.dims.vocab}});
  std::span<float> logits = result.as<float>();
  for (const ForwardShape& pass : passes) {
    const auto piece = tokens.subspan(static_cast<std::size_t>(pass.position),
                                      static_cast<std::size_t>(pass.tokens));
    const auto count = static_cast<std::size_t>(logits_rows(pass) * config_.dims.vocab);
    RETURN_IF_ERROR(run(pass, piece, cache, logits.first(count)));
    logits = logits.subspan(count);
  }
  return result;
}

/// One pass, behind what `cache` holds; logits [logits_rows(shape), vocab].
Status LlamaDriver::run(const ForwardShape& shape, std::span<const std::int32_t> tokens,
                        KvCache& cache, std::span<float> logits) {
  ASSIGN_OR_RETURN(const std::vector<PlannedOp> plan, plan_forward(config_.dims, shape));
  Pass pass{shape, tokens, &cache, {}, logits};
  prepare_positions(shape.position + shape.tokens);
  RETURN_IF_ERROR(walk(plan, pass));
  cache.extend(shape.tokens);
  return {};
}

void LlamaDriver::prepare_positions(std::int64_t count) {
  if (count > config_.max_position_embeddings && !std::exchange(warned_, true)) {
    log_warning(fmt::format(
        "{} tokens are more than the model's max_position_embeddings, {}: results may be poor",
        count, config_.max_position_embeddings));
  }
  extend_rope_table(config_, count, rope_);
}

Status LlamaDriver::walk(const std::vector<PlannedOp>& plan, Pass& pass) {
  const TensorDesc hidden{DType::kF32, {pass.shape.tokens, config_.dims.hidden}};
  if (!(hidden_.desc() == hidden)) hidden_ = Tensor(hidden);
  for (const PlannedOp& op : plan) RETURN_IF_ERROR(take_step(op, pass));
  return {};
}

Result<Tensor> LlamaDriver::forward(std::span<const SequencePass> sequences) {
  std::vector<std::int32_t> tokens;
  std::vector<SequenceRows> rows;
  std::vector<std::int64_t> chosen;
  std::int64_t positions = 0;
  for (const SequencePass& sequence : sequences) {
    RETURN_IF_ERROR(check_tokens(sequence.tokens, config_.dims.vocab));
    SequenceCache& cache = *sequence.cache;
    if (!(cache.memory().dims() == config_.dims))
      return Status(StatusCode::kInvalidInput, "the cache was made for another model");
    const auto count = static_cast<std::int64_t>(sequence.tokens.size());
    RETURN_IF_ERROR(cache.grow(count));
    rows.push_back({static_cast<std::int64_t>(tokens.size()), count, &cache});
    tokens.insert(tokens.end(), sequence.tokens.begin(), sequence.tokens.end());
    if (sequence.wants_logits) chosen.push_back(static_cast<std::int64_t>(tokens.size()) - 1);
    positions = std::max(positions, cache.length() + count);
  }
  RETURN_IF_ERROR(check_tokens(tokens, config_.dims.vocab));
  ForwardShape shape = shape_of(tokens.size(), Logits::kChosen, 0);
  shape.attention = Attention::kTee;
  shape.chosen_rows = static_cast<std::int64_t>(chosen.size());
  RETURN_IF_ERROR(check_pass(config_.dims, shape, shape.chosen_rows));
  ASSIGN_OR_RETURN(const std::vector<PlannedOp> plan, plan_forward(config_.dims, shape));
  Tensor result({DType::kF32, {shape.chosen_rows, config_.dims.vocab}});
  Pass pass{shape, tokens, nullptr, rows, result.as<float>()};
  pass.chosen = std::move(chosen);
  prepare_positions(positions);
  RETURN_IF_ERROR(walk(plan, pass));
  for (const SequenceRows& sequence : rows) sequence.cache->extend(sequence.row_count);
  return result;
}

Status LlamaDriver::take_step(const PlannedOp& op, Pass& pass) {
  switch (op.step) {
    case Step::kEmbed: {
      ASSIGN_OR_RETURN(const PendingOp embedding, ask(op, [&](MutableTensorView in) {
                         std::memcpy(in.data, pass.tokens.data(), pass.tokens.size_bytes());
                       }));
      convert(embedding->result(0), hidden_.mutable_view());
      return {};
    }
    case Step::kQkv: {
      ASSIGN_OR_RETURN(pass.qkv, ask_normalised(op, 2 * *op.layer));
      return {};
    }
    case Step::kScores:
      return ask_for_scores(op, pass);
    case Step::kValues:
      return weigh_values(op, pass);
    case Step::kAttentionOut: {
      ASSIGN_OR_RETURN(const PendingOp out, ask(op, [&](MutableTensorView in) {
                         finish_attention(*op.layer, pass, in);
                       }));
      add(out->result(0), op.tile);
      return {};
    }
    case Step::kGateUp: {
      ASSIGN_OR_RETURN(pass.gate_up, ask_normalised(op, 2 * *op.layer + 1));
      return {};
    }
    case Step::kDown: {
      ASSIGN_OR_RETURN(const PendingOp down, ask(op, [&](MutableTensorView in) {
                         const KernelTimer timer(stats_, TeeKernel::kSilu);
                         silu_multiply(pool_, pass.gate_up->result(0), pass.gate_up->result(1), in);
                         pass.gate_up.reset();
                       }));
      add(down->result(0), op.tile);
      return {};
    }
    case Step::kLogits: {
      ASSIGN_OR_RETURN(const PendingOp head, ask_for_logits(op, pass));
      const std::int64_t first_row =
          pass.chosen.empty() ? pass.shape.tokens - logits_rows(pass.shape) : 0;
      const auto row = static_cast<std::size_t>(config_.dims.vocab);
      const auto logits =
          pass.logits.subspan(static_cast<std::size_t>(op.tile.first_row - first_row) * row,
                              static_cast<std::size_t>(op.tile.row_count) * row);
      std::memcpy(logits.data(), head->result(0).data, logits.size_bytes());
      return {};
    }
  }
  return {};
}

/// Leaves QK^T of one tile under way.
Status LlamaDriver::ask_for_scores(const PlannedOp& op, Pass& pass) {
  ASSIGN_OR_RETURN(pass.scores, begin(op));
  {
    const KernelTimer timer(stats_, TeeKernel::kRope);
    rotate_heads(pool_, rope_, pass.qkv->result(0), query_heads(config_.dims, op.tile),
                 pass.shape.position, pass.scores->input(0));
    if (is_first(op.tile)) pass.cache->store_keys(pool_, rope_, *op.layer, pass.qkv->result(1));
    pass.cache->copy_keys(pool_, *op.layer, op.tile.first_group, pass.scores->input(1));
  }
  return pass.scores->submit();
}

/// PV is prepared while QK^T is under way, so that the values move meanwhile; hence twice the time.
Status LlamaDriver::weigh_values(const PlannedOp& op, Pass& pass) {
  const ModelDims& dims = config_.dims;
  ASSIGN_OR_RETURN(PendingOp values, begin(op, 2));
  {
    const KernelTimer timer(stats_, TeeKernel::kAttention);
    if (is_first(op.tile)) pass.cache->store_values(pool_, *op.layer, pass.qkv->result(2));
    pass.cache->copy_values(pool_, *op.layer, op.tile.first_group, values->input(1));
  }
  const bool is_last = op.tile.first_row + op.tile.row_count == pass.shape.tokens &&
                       op.tile.first_group + op.tile.group_count == dims.kv_heads;
  if (is_last) pass.qkv.reset();
  RETURN_IF_ERROR(finish(op, *pass.scores));
  {
    const KernelTimer timer(stats_, TeeKernel::kSoftmax);
    const auto scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(dims.head_dim)));
    causal_softmax(pool_, pass.scores->result(0), pass.shape.position + op.tile.first_row, scale,
                   values->input(0));
  }
  pass.scores.reset();
  RETURN_IF_ERROR(values->submit());
  RETURN_IF_ERROR(finish(op, *values));
  if (is_first(op.tile) && is_last) {
    pass.attention = std::move(values);
    return {};
  }
  // Several tiles are gathered in private memory: o_proj's loan and deadline must not wait for all
  // of their products.
  if (is_first(op.tile))
    pass.attended = Tensor({options_.wire, {pass.shape.tokens, dims.heads * dims.head_dim}});
  const KernelTimer timer(stats_, TeeKernel::kAttention);
  merge_heads(pool_, values->result(0), query_heads(dims, op.tile), pass.attended.mutable_view());
  return {};
}

/// Attention's output as o_proj takes it.
void LlamaDriver::finish_attention(std::int64_t layer, Pass& pass, MutableTensorView out) {
  const KernelTimer timer(stats_, TeeKernel::kAttention);
  if (pass.cache == nullptr) {
    cached_attention(pool_, rope_, layer, pass.qkv->result(0), pass.qkv->result(1),
                     pass.qkv->result(2), pass.sequences, out);
    pass.qkv.reset();
  } else if (options_.attention == Attention::kTee) {
    pass.cache->store_keys(pool_, rope_, layer, pass.qkv->result(1));
    pass.cache->store_values(pool_, layer, pass.qkv->result(2));
    blocked_attention(pool_, rope_, pass.qkv->result(0), pass.shape.position,
                      pass.cache->keys(layer), pass.cache->values(layer), out);
    pass.qkv.reset();
  } else if (pass.attention) {
    merge_heads(pool_, pass.attention->result(0), {0, config_.dims.heads, 0, pass.shape.tokens},
                out);
    pass.attention.reset();
  } else {
    std::memcpy(out.data, pass.attended.view().data, pass.attended.desc().bytes());
  }
}

Result<LlamaDriver::PendingOp> LlamaDriver::begin(const PlannedOp& op, int timeouts) {
  if (options_.pulse != nullptr) options_.pulse->beat();
  return backend_.prepare(op.spec, Deadline::after(timeouts * options_.op_timeout));
}

/// The finished op. `fill` writes its only input.
Result<LlamaDriver::PendingOp> LlamaDriver::ask(const PlannedOp& op, auto fill) {
  ASSIGN_OR_RETURN(PendingOp pending, begin(op));
  fill(pending->input(0));
  RETURN_IF_ERROR(pending->submit());
  RETURN_IF_ERROR(finish(op, *pending));
  return pending;
}

Result<LlamaDriver::PendingOp> LlamaDriver::ask_normalised(const PlannedOp& op, std::int64_t norm) {
  return ask(op, [&](MutableTensorView in) {
    const KernelTimer timer(stats_, TeeKernel::kRmsNorm);
    const float* weight = norms_.as<float>().data() + norm * config_.dims.hidden;
    rms_norm(pool_, hidden_, op.tile.first_row, weight, config_.rms_norm_eps, in);
  });
}

/// lm_head of the rows that are wanted.
Result<LlamaDriver::PendingOp> LlamaDriver::ask_for_logits(const PlannedOp& op, const Pass& pass) {
  const std::int64_t norm = 2 * config_.dims.layers;
  if (pass.chosen.empty()) return ask_normalised(op, norm);
  const auto width = static_cast<std::size_t>(config_.dims.hidden);
  Tensor rows({DType::kF32, {op.tile.row_count, config_.dims.hidden}});
  for (std::size_t i = 0; i < static_cast<std::size_t>(op.tile.row_count); ++i) {
    const auto row =
        static_cast<std::size_t>(pass.chosen[static_cast<std::size_t>(op.tile.first_row) + i]);
    std::memcpy(rows.as<float>().data() + i * width, hidden_.as<float>().data() + row * width,
                width * sizeof(float));
  }
  return ask(op, [&](MutableTensorView in) {
    const KernelTimer timer(stats_, TeeKernel::kRmsNorm);
    rms_norm(pool_, rows, 0, norms_.as<float>().data() + norm * config_.dims.hidden,
             config_.rms_norm_eps, in);
  });
}

void LlamaDriver::add(TensorView delta, const Tile& rows) {
  const KernelTimer timer(stats_, TeeKernel::kResidual);
  add_residual(pool_, delta, rows.first_row, hidden_);
}

Status check_tokens(std::span<const std::int32_t> tokens, std::int64_t vocab) {
  if (tokens.empty())
    return {StatusCode::kInvalidInput, "the prompt is empty: give at least one token id"};
  if (tokens.size() > static_cast<std::size_t>(limits::kMaxTokens)) {
    return {StatusCode::kInvalidInput, "{} tokens are too many: at most {}", tokens.size(),
            limits::kMaxTokens};
  }
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] < 0 || tokens[i] >= vocab) {
      return {StatusCode::kInvalidInput,
              "token id {} at position {} is not in the vocabulary: ids go from 0 to {}", tokens[i],
              i, vocab - 1};
    }
  }
  return {};
}

Result<std::unique_ptr<LlamaDriver>> LlamaDriver::create(const LlamaConfig& config, Tensor norms,
                                                         const LlamaOptions& options,
                                                         Backend& backend, TeeStatsTable& stats,
                                                         std::shared_ptr<ThreadPool> pool) {
  RETURN_IF_ERROR(config.dims.check());
  if (config.dims.head_dim % 2 != 0) {
    return Status(StatusCode::kInvalidInput,
                  "head_dim {} is odd: rotary embeddings need an even one", config.dims.head_dim);
  }
  if (!(config.dims == backend.info().dims)) {
    return Status(StatusCode::kMismatch, "the backend serves a model of other dimensions");
  }
  const TensorDesc expected{DType::kF32, {2 * config.dims.layers + 1, config.dims.hidden}};
  if (!(norms.desc() == expected)) {
    return Status(StatusCode::kInvalidInput, "norm weights have shape {}, expected fp32 {}",
                  norms.desc().shape.to_string(), expected.shape.to_string());
  }
  if (!is_model_float(options.wire) || options.threads < 1 ||
      options.threads > limits::kMaxThreads) {
    return Status(StatusCode::kInvalidInput,
                  "the wire type must be a float type and threads at least 1");
  }
  if (pool == nullptr) {
    ASSIGN_OR_RETURN(pool, ThreadPool::create(options.threads));
  }
  return std::unique_ptr<LlamaDriver>(
      new LlamaDriver(config, std::move(norms), options, backend, stats, std::move(pool)));
}

}  // namespace airlock
