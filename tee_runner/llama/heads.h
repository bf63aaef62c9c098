#pragma once

#include <cstdint>

#include "base/tensor.h"
#include "base/thread_pool.h"
#include "tee_runner/llama/rope.h"

namespace airlock {

/// Some heads of some tokens, where they lie in both layouts: that of linear layers, `rows`
/// [tokens, heads * head_dim], and that of batched products and of the cache, `heads` [head_count,
/// any number of rows, head_dim].
struct HeadTile {
  std::int64_t first_head = 0;  // of `rows`; `heads` has those of the tile alone
  std::int64_t head_count = 0;
  std::int64_t first_row = 0;  // of `rows`
  std::int64_t row_count = 0;
  std::int64_t heads_row = 0;  // where first_row lies in `heads`
};

/// Move a tile from one layout into the other. Float types; each input element is read once.
/// rotate_heads() also applies RoPE, in fp32, rounding once; row 0 of `rows` is at `position`.
void rotate_heads(ThreadPool& pool, const RopeTable& table, TensorView rows, const HeadTile& tile,
                  std::int64_t position, MutableTensorView heads);
void split_heads(ThreadPool& pool, TensorView rows, const HeadTile& tile, MutableTensorView heads);
void merge_heads(ThreadPool& pool, TensorView heads, const HeadTile& tile, MutableTensorView rows);

}  // namespace airlock
