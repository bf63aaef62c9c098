#include "tee_runner/llama/driver.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <deque>
#include <utility>
#include <vector>

#include "base/log.h"
#include "proto/limits.h"
#include "tee_runner/llama/int8_kernels.h"
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

/// The queries of a tile, in a tensor whose rows begin at first_row.
HeadTile query_heads(const ModelDims& dims, const Tile& tile, std::int64_t first_row) {
  const std::int64_t group = dims.heads / dims.kv_heads;
  return {tile.first_group * group, tile.group_count * group, tile.first_row - first_row,
          tile.row_count};
}

/// The sequences' rows among those of a tile, counted from its first one.
std::vector<SequenceRows> part_of(std::span<const SequenceRows> sequences, const Tile& tile) {
  std::vector<SequenceRows> part;
  for (const SequenceRows& rows : sequences) {
    const std::int64_t first = std::max(rows.first_row, tile.first_row);
    const std::int64_t end =
        std::min(rows.first_row + rows.row_count, tile.first_row + tile.row_count);
    if (first < end) {
      part.push_back({first - tile.first_row, end - first, rows.cache,
                      rows.rows_before + first - rows.first_row});
    }
  }
  return part;
}

bool overlap(const Tile& a, const Tile& b) {
  return a.first_row < b.first_row + b.row_count && b.first_row < a.first_row + a.row_count;
}

}  // namespace

/// An op whose results are wanted.
struct LlamaDriver::Sent {
  const PlannedOp* op;
  PendingOp pending;
};

/// What is under way between the steps of one pass.
struct LlamaDriver::Pass {
  const ForwardShape& shape;
  std::span<const std::int32_t> tokens;
  KvCache* cache;                           // of a pass over one sequence
  std::span<const SequenceRows> sequences;  // of one over several
  std::span<float> logits;
  std::vector<std::int64_t> chosen = {};  // the rows of Logits::kChosen
  std::deque<Sent> sent = {};             // oldest first
  std::vector<Sent> landed = {};          // finished before somebody asked for their results
  // Of offloaded attention: of the row tiles whose queries, keys and values are being read.
  std::deque<Sent> qkv = {};
  Tensor attended = {};  // wire [tokens, heads * head_dim], gathered from PV
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
  return {.tokens = static_cast<std::int64_t>(tokens),
          .wire = options_.wire,
          .attention = options_.attention,
          .logits = logits,
          .position = position,
          .max_score_bytes = options_.max_score_bytes,
          .tile = options_.tile};
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
  // Behind the last layer of a pass without logits.
  while (!pass.sent.empty()) RETURN_IF_ERROR(land(pass));
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
  // A step of answers, however many, is one: a second tile would only read the weights again.
  const bool is_step = std::ranges::none_of(
      rows, [](const SequenceRows& part) { return part.row_count >= kLeastAutoTile; });
  shape.tile = options_.tile == kAutoTile && is_step ? 0 : options_.tile;
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
    case Step::kEmbed:
      return embed(op, pass);
    case Step::kQkv:
      return ask_normalised(op, 2 * *op.layer, pass);
    case Step::kScores:
      return ask_for_scores(op, pass);
    case Step::kValues:
      return weigh_values(op, pass);
    case Step::kAttentionOut:
      return ask_attended(op, pass);
    case Step::kGateUp:
      return ask_normalised(op, 2 * *op.layer + 1, pass);
    case Step::kDown:
      return ask_down(op, pass);
    case Step::kLogits:
      return ask_for_logits(op, pass);
  }
  return {};
}

Status LlamaDriver::embed(const PlannedOp& op, Pass& pass) {
  ASSIGN_OR_RETURN(const PendingOp embedding, begin(op, pass));
  std::memcpy(embedding->input(0).data, pass.tokens.data(), pass.tokens.size_bytes());
  RETURN_IF_ERROR(embedding->submit());
  RETURN_IF_ERROR(finish(op, *embedding));
  widen_rows(pool_, embedding->result(0), hidden_.mutable_view());
  return {};
}

/// Norm of the rows' hidden states, to which all that is on its way for them has been added: in one
/// pass with the norm where that is one op of just these rows.
Status LlamaDriver::ask_normalised(const PlannedOp& op, std::int64_t norm, Pass& pass) {
  const auto concerns = [&op](const Sent& sent) { return overlap(sent.op->tile, op.tile); };
  PendingOp delta;
  while (delta == nullptr && std::ranges::any_of(pass.sent, concerns)) {
    const Tile& rows = pass.sent.front().op->tile;
    if (rows.first_row == op.tile.first_row && rows.row_count == op.tile.row_count) {
      ASSIGN_OR_RETURN(Sent added, take(pass.sent.front().op->step, rows, pass));
      delta = std::move(added.pending);
    } else {
      RETURN_IF_ERROR(land(pass));
    }
  }
  ASSIGN_OR_RETURN(PendingOp pending, begin(op, pass));
  {
    const KernelTimer timer(stats_, TeeKernel::kRmsNorm);
    const float* weight = norms_.as<float>().data() + norm * config_.dims.hidden;
    const std::int64_t first = op.tile.first_row;
    if (delta == nullptr) {
      rms_norm(pool_, hidden_, first, weight, config_.rms_norm_eps, pending->input(0));
    } else {
      add_and_normalise(pool_, delta->result(0), first, hidden_, weight, config_.rms_norm_eps,
                        pending->input(0));
    }
  }
  delta.reset();
  return send(op, std::move(pending), pass);
}

Status LlamaDriver::ask_attended(const PlannedOp& op, Pass& pass) {
  if (pass.shape.attention == Attention::kOffload) {
    ASSIGN_OR_RETURN(PendingOp pending, begin(op, pass));
    RETURN_IF_ERROR(take_attended(op, pass, pending->input(0)));
    return send(op, std::move(pending), pass);
  }
  ASSIGN_OR_RETURN(Sent qkv, take(Step::kQkv, op.tile, pass));
  ASSIGN_OR_RETURN(PendingOp pending, begin(op, pass));
  attend(op, *qkv.pending, pass, pending->input(0));
  qkv.pending.reset();
  return send(op, std::move(pending), pass);
}

Status LlamaDriver::ask_down(const PlannedOp& op, Pass& pass) {
  ASSIGN_OR_RETURN(Sent gate_up, take(Step::kGateUp, op.tile, pass));
  ASSIGN_OR_RETURN(PendingOp pending, begin(op, pass));
  {
    const KernelTimer timer(stats_, TeeKernel::kSilu);
    silu_multiply(pool_, gate_up.pending->result(0), gate_up.pending->result(1), pending->input(0));
  }
  gate_up.pending.reset();
  return send(op, std::move(pending), pass);
}

/// Leaves QK^T of one tile under way. `qkv` has the newest row tile last.
Status LlamaDriver::ask_for_scores(const PlannedOp& op, Pass& pass) {
  const bool is_first = pass.qkv.empty() || !overlap(pass.qkv.back().op->tile, op.tile);
  if (is_first) {
    ASSIGN_OR_RETURN(Sent qkv, take(Step::kQkv, op.tile, pass));
    pass.qkv.push_back(std::move(qkv));
  }
  const Sent& qkv = pass.qkv.back();
  const std::int64_t first_row = qkv.op->tile.first_row;
  ASSIGN_OR_RETURN(PendingOp scores, begin(op, pass));
  {
    const KernelTimer timer(stats_, TeeKernel::kRope);
    rotate_heads(pool_, rope_, qkv.pending->result(0),
                 query_heads(config_.dims, op.tile, first_row), pass.shape.position + first_row,
                 scores->input(0));
    if (is_first)
      pass.cache->store_keys(pool_, rope_, *op.layer, qkv.pending->result(1), first_row);
    pass.cache->copy_keys(pool_, *op.layer, op.tile.first_group, scores->input(1));
  }
  return send(op, std::move(scores), pass);
}

/// PV is prepared while QK^T is under way, so that the values move meanwhile; hence twice the time.
/// `qkv` has the oldest row tile first.
Status LlamaDriver::weigh_values(const PlannedOp& op, Pass& pass) {
  const ModelDims& dims = config_.dims;
  ASSIGN_OR_RETURN(PendingOp values, begin(op, pass, 2));
  const Tile rows = pass.qkv.front().op->tile;
  const bool is_last = op.tile.first_row + op.tile.row_count == rows.first_row + rows.row_count &&
                       op.tile.first_group + op.tile.group_count == dims.kv_heads;
  {
    const KernelTimer timer(stats_, TeeKernel::kAttention);
    if (op.tile.first_row == rows.first_row && op.tile.first_group == 0) {
      pass.cache->store_values(pool_, *op.layer, pass.qkv.front().pending->result(2),
                               rows.first_row);
    }
    pass.cache->copy_values(pool_, *op.layer, op.tile.first_group, values->input(1));
  }
  if (is_last) pass.qkv.pop_front();
  ASSIGN_OR_RETURN(Sent scores, take(Step::kScores, op.tile, pass));
  {
    const KernelTimer timer(stats_, TeeKernel::kSoftmax);
    const auto scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(dims.head_dim)));
    causal_softmax(pool_, scores.pending->result(0), pass.shape.position + op.tile.first_row, scale,
                   values->input(0));
  }
  scores.pending.reset();
  RETURN_IF_ERROR(send(op, std::move(values), pass));
  // Where one row tile takes several products they are large: not two at once.
  const bool is_whole = op.tile.row_count == rows.row_count && op.tile.group_count == dims.kv_heads;
  while (!is_whole && !pass.sent.empty()) RETURN_IF_ERROR(land(pass));
  return {};
}

/// Offloaded attention's output as o_proj takes it: from PV itself where that has just these rows.
Status LlamaDriver::take_attended(const PlannedOp& op, Pass& pass, MutableTensorView out) {
  const ModelDims& dims = config_.dims;
  const auto concerns = [&op](const Sent& sent) { return overlap(sent.op->tile, op.tile); };
  const auto values = std::ranges::find_if(pass.sent, concerns);
  if (values != pass.sent.end() && values->op->tile.row_count == op.tile.row_count &&
      values->op->tile.group_count == dims.kv_heads) {
    ASSIGN_OR_RETURN(const Sent whole, take(Step::kValues, op.tile, pass));
    const KernelTimer timer(stats_, TeeKernel::kAttention);
    merge_heads(pool_, whole.pending->result(0), {0, dims.heads, 0, op.tile.row_count}, out);
    return {};
  }
  while (std::ranges::any_of(pass.sent, concerns)) RETURN_IF_ERROR(land(pass));
  const KernelTimer timer(stats_, TeeKernel::kAttention);
  const std::size_t row_bytes =
      pass.attended.desc().bytes() / static_cast<std::size_t>(pass.shape.tokens);
  std::memcpy(out.data,
              pass.attended.view().data + static_cast<std::size_t>(op.tile.first_row) * row_bytes,
              out.desc.bytes());
  return {};
}

/// Attention in this process, of the op's rows: their keys and values are stored first.
void LlamaDriver::attend(const PlannedOp& op, const Pending& qkv, Pass& pass,
                         MutableTensorView out) {
  const KernelTimer timer(stats_, TeeKernel::kAttention);
  const FloatRows q(pool_, qkv.result(0));
  const FloatRows k(pool_, qkv.result(1));
  const FloatRows v(pool_, qkv.result(2));
  FloatRowsOut attended(out);
  if (pass.cache == nullptr) {
    cached_attention(pool_, rope_, *op.layer, q.view(), k.view(), v.view(),
                     part_of(pass.sequences, op.tile), attended.view());
  } else {
    const std::int64_t first = op.tile.first_row;
    pass.cache->store_keys(pool_, rope_, *op.layer, k.view(), first);
    pass.cache->store_values(pool_, *op.layer, v.view(), first);
    blocked_attention(pool_, rope_, q.view(), pass.shape.position + first,
                      pass.cache->keys(*op.layer), pass.cache->values(*op.layer), attended.view());
  }
  attended.finish(pool_);
}

/// Waits for the oldest op under way. What is added to the hidden states or gathered from PV is;
/// the rest lies there until somebody takes it.
Status LlamaDriver::land(Pass& pass) {
  Sent oldest = std::move(pass.sent.front());
  pass.sent.pop_front();
  const PlannedOp& op = *oldest.op;
  RETURN_IF_ERROR(finish(op, *oldest.pending));
  if (op.step == Step::kAttentionOut || op.step == Step::kDown) {
    const KernelTimer timer(stats_, TeeKernel::kResidual);
    add_residual(pool_, oldest.pending->result(0), op.tile.first_row, hidden_);
  } else if (op.step == Step::kValues) {
    const KernelTimer timer(stats_, TeeKernel::kAttention);
    const ModelDims& dims = config_.dims;
    const TensorDesc all{options_.wire, {pass.shape.tokens, dims.heads * dims.head_dim}};
    if (!(pass.attended.desc() == all)) pass.attended = Tensor(all);
    merge_heads(pool_, oldest.pending->result(0), query_heads(dims, op.tile, 0),
                pass.attended.mutable_view());
  } else {
    pass.landed.push_back(std::move(oldest));
  }
  return {};
}

/// The finished op of a step whose rows begin with the tile's. Ops finish in the order in which
/// they were sent.
Result<LlamaDriver::Sent> LlamaDriver::take(Step step, const Tile& rows, Pass& pass) {
  const auto is_it = [&](const Sent& sent) {
    return sent.op->step == step && sent.op->tile.first_row == rows.first_row &&
           sent.op->tile.first_group == rows.first_group;
  };
  while (std::ranges::none_of(pass.landed, is_it)) {
    CHECK(!pass.sent.empty());
    if (is_it(pass.sent.front())) {
      Sent sent = std::move(pass.sent.front());
      pass.sent.pop_front();
      RETURN_IF_ERROR(finish(*sent.op, *sent.pending));
      return sent;
    }
    RETURN_IF_ERROR(land(pass));
  }
  const auto found = std::ranges::find_if(pass.landed, is_it);
  Sent sent = std::move(*found);
  pass.landed.erase(found);
  return sent;
}

/// An op's place, where there are not too many under way. It may have to wait for each of those.
Result<LlamaDriver::PendingOp> LlamaDriver::begin(const PlannedOp& op, Pass& pass, int timeouts) {
  while (pass.sent.size() >= kTilesUnderWay) RETURN_IF_ERROR(land(pass));
  if (options_.pulse != nullptr) options_.pulse->beat();
  const auto waits = timeouts + static_cast<int>(pass.sent.size());
  return backend_.prepare(op.spec, Deadline::after(waits * options_.op_timeout));
}

Status LlamaDriver::send(const PlannedOp& op, PendingOp pending, Pass& pass) {
  RETURN_IF_ERROR(pending->submit());
  pass.sent.push_back({&op, std::move(pending)});
  return {};
}

/// lm_head of the rows that are wanted.
Status LlamaDriver::ask_for_logits(const PlannedOp& op, Pass& pass) {
  while (!pass.sent.empty()) RETURN_IF_ERROR(land(pass));
  ASSIGN_OR_RETURN(const PendingOp head, begin(op, pass));
  const auto width = static_cast<std::size_t>(config_.dims.hidden);
  const float* const weight =
      norms_.as<float>().data() + static_cast<std::size_t>(2 * config_.dims.layers) * width;
  {
    const KernelTimer timer(stats_, TeeKernel::kRmsNorm);
    if (pass.chosen.empty()) {
      rms_norm(pool_, hidden_, op.tile.first_row, weight, config_.rms_norm_eps, head->input(0));
    } else {
      Tensor rows({DType::kF32, {op.tile.row_count, config_.dims.hidden}});
      for (std::size_t i = 0; i < static_cast<std::size_t>(op.tile.row_count); ++i) {
        const auto row =
            static_cast<std::size_t>(pass.chosen[static_cast<std::size_t>(op.tile.first_row) + i]);
        std::memcpy(rows.as<float>().data() + i * width, hidden_.as<float>().data() + row * width,
                    width * sizeof(float));
      }
      rms_norm(pool_, rows, 0, weight, config_.rms_norm_eps, head->input(0));
    }
  }
  RETURN_IF_ERROR(head->submit());
  RETURN_IF_ERROR(finish(op, *head));
  const std::int64_t first_row =
      pass.chosen.empty() ? pass.shape.tokens - logits_rows(pass.shape) : 0;
  const auto row = static_cast<std::size_t>(config_.dims.vocab);
  const auto logits =
      pass.logits.subspan(static_cast<std::size_t>(op.tile.first_row - first_row) * row,
                          static_cast<std::size_t>(op.tile.row_count) * row);
  std::memcpy(logits.data(), head->result(0).data, logits.size_bytes());
  return {};
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
  if (!is_wire_type(options.wire) || options.threads < 1 || options.threads > limits::kMaxThreads) {
    return Status(StatusCode::kInvalidInput,
                  "the wire type must be a float type or int8 and threads at least 1");
  }
  if (options.wire == DType::kI8 && options.attention == Attention::kOffload)
    return Status(StatusCode::kInvalidInput, "offloaded attention does not cross as int8");
  if (pool == nullptr) {
    ASSIGN_OR_RETURN(pool, ThreadPool::create(options.threads));
  }
  return std::unique_ptr<LlamaDriver>(
      new LlamaDriver(config, std::move(norms), options, backend, stats, std::move(pool)));
}

}  // namespace airlock
