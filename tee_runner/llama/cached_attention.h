#pragma once

#include <cstdint>
#include <span>

#include "base/tensor.h"
#include "base/thread_pool.h"
#include "tee_runner/llama/block_cache.h"
#include "tee_runner/llama/rope.h"

namespace airlock {

/// Rows of a pass that are one sequence's next tokens.
struct SequenceRows {
  std::int64_t first_row = 0;
  std::int64_t row_count = 0;
  SequenceCache* cache = nullptr;  // grow()n for them
  // Of the sequence in this pass, whose keys and values are stored already.
  std::int64_t rows_before = 0;

  /// Of the first row.
  std::int64_t position() const { return cache->length() + rows_before; }
};

/// As blocked_attention() of kernels.h, with its bits, over what sequences hold in blocks: none
/// sees another, and the bits of a row depend on nothing but its own sequence.
///
/// Rotates and stores one layer's keys, stores its values, and attends. q [rows, heads * head_dim]
/// and keys, values [rows, kv_heads * head_dim] are of any float type, each element read once; out
/// [rows, heads * head_dim], rounded once. The sequences' rows do not meet.
void cached_attention(ThreadPool& pool, const RopeTable& table, std::int64_t layer, TensorView q,
                      TensorView keys, TensorView values, std::span<const SequenceRows> sequences,
                      MutableTensorView out);

}  // namespace airlock
