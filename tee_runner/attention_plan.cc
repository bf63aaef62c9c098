#include "tee_runner/attention_plan.h"

#include <algorithm>

namespace airlock {

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

}  // namespace airlock
