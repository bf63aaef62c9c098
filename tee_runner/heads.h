#pragma once

#include <cstdint>

#include "base/tensor.h"
#include "base/thread_pool.h"
#include "tee_runner/rope.h"

namespace airlock {

/// A part of [tokens, heads * head_dim]: some heads of some tokens. In units of heads and tokens.
struct HeadTile {
  std::int64_t first_head = 0;
  std::int64_t head_count = 0;
  std::int64_t first_row = 0;
  std::int64_t row_count = 0;
};

/// Moves between the layout of linear layers, [tokens, heads * head_dim], and that of batched
/// products, [head_count, row_count, head_dim]. One float type on both sides; each input element is
/// read once. rotate_heads() also applies RoPE, in fp32, rounding once.
void rotate_heads(ThreadPool& pool, const RopeTable& table, TensorView rows, const HeadTile& tile,
                  MutableTensorView heads);
void split_heads(ThreadPool& pool, TensorView rows, const HeadTile& tile, MutableTensorView heads);
void merge_heads(ThreadPool& pool, TensorView heads, const HeadTile& tile, MutableTensorView rows);

}  // namespace airlock
