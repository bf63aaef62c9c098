#pragma once

#include <cstdint>
#include <vector>

#include "proto/op.h"

namespace airlock {

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

}  // namespace airlock
