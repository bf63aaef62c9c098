#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "base/status.h"
#include "proto/op.h"

namespace airlock {

/// Where QK^T and PV are computed.
enum class Attention : std::uint8_t { kOffload, kTee };
enum class Logits : std::uint8_t { kLast, kAll };  // of the last token, or of every token

/// One offloaded QK^T and PV: whole key-value heads, and a range of query rows that sees keys [0,
/// first_row + row_count).
struct AttentionTile {
  std::int64_t first_group = 0;
  std::int64_t group_count = 0;
  std::int64_t first_row = 0;
  std::int64_t row_count = 0;
  std::int64_t keys() const { return first_row + row_count; }
};

inline constexpr std::int64_t kMaxScoreBytes = std::int64_t{256} << 20;

/// Splits attention over `tokens` so that one tile's scores stay within `max_bytes`: one tile where
/// they do, else by whole key-value heads, else one head group at a time by query rows (at least
/// one row).
std::vector<AttentionTile> plan_attention(const ModelDims& dims, std::int64_t tokens, DType wire,
                                          std::int64_t max_bytes = kMaxScoreBytes);

/// The ops of one tile: Q K^T ([heads, rows, head_dim] by [groups, keys, head_dim]), and its
/// softmax times V.
OpSpec score_spec(const ModelDims& dims, const AttentionTile& tile, DType wire);
OpSpec value_spec(const ModelDims& dims, const AttentionTile& tile, DType wire);

/// How many of `rows` rows one op is asked for at a time, so that a result of `row_bytes` a row
/// stays within 256 MiB; at least one.
std::int64_t rows_per_op(std::int64_t rows, std::int64_t row_bytes);

/// What sizes a prefill, beside the model.
struct PrefillShape {
  std::int64_t tokens = 0;
  DType wire = DType::kF32;
  Attention attention = Attention::kOffload;
  Logits logits = Logits::kLast;
};

struct PlannedOp {
  OpSpec spec;
  std::optional<std::uint16_t> layer;  // nullopt: embedding and lm_head
};

/// The ops that LlamaDriver asks a backend for, in order (tests/tee_runner proves it). `dims`
/// passed check(); tokens from 1 to limits::kMaxTokens.
std::vector<PlannedOp> plan_prefill(const ModelDims& dims, const PrefillShape& shape);

inline constexpr std::uint64_t kMaxPlannedOps = std::uint64_t{1} << 20;

/// plan_prefill() for dims that nobody vouches for, a config's or a server's: kInvalidInput, naming
/// the op, where an op is over the limits of the wire, kResourceExhausted where there are more than
/// kMaxPlannedOps.
Result<std::vector<PlannedOp>> checked_plan(const ModelDims& dims, const PrefillShape& shape);

}  // namespace airlock
