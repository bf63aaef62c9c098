#include "tee_runner/llama/driver.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "base/log.h"
#include "proto/limits.h"
#include "tee_runner/llama/driver_pass.h"

namespace airlock {

namespace {

constexpr std::int64_t kMaxLogitsBytes = std::int64_t{128} << 30;

/// Keys and values in the type in which attention needs them, so that storing them loses nothing.
DType cache_dtype(const LlamaOptions& options) {
  return options.attention == Attention::kTee ? DType::kF32 : options.wire;
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

}  // namespace

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
