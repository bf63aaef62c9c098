#pragma once

#include <cstdint>

#include "base/tensor.h"
#include "base/thread_pool.h"
#include "tee_runner/llama/rope.h"

namespace airlock {

/// The kernels of the trusted side: fp32 inside, each output rounded once to the output view's
/// float type. A row's bits depend neither on the number of threads nor on the rows computed beside
/// it nor on the width of the CPU's vectors. They are the same on all CPUs with fused multiply-add
/// (AVX2, AVX-512, AArch64), and may be others, but again the same, on all CPUs without (SSE4,
/// plain C++). Views may lie in memory that the peer can change: every input element is read once,
/// none is used as an index or a size. Shapes are the caller's own (CHECKed).

/// RMSNorm of rows [first_row, first_row + out.shape[0]) of `hidden`.
/// hidden fp32 [tokens, width], weight fp32 [width], out any float type [rows, width] or int8
/// rows.
void rms_norm(ThreadPool& pool, const Tensor& hidden, std::int64_t first_row, const float* weight,
              double epsilon, MutableTensorView out);

/// Probabilities of causal attention: out[h, i, j] = softmax over j <= first_row + i of scores[h,
/// i, j] * scale, and zero for j beyond. scores and out [heads, rows, keys], keys >= first_row +
/// rows.
void causal_softmax(ThreadPool& pool, TensorView scores, std::int64_t first_row, float scale,
                    MutableTensorView out);

/// out = silu(gate) * up, element by element; all three of one shape, and int8 rows or none of
/// them. Where all three are bf16, it is as precise as bf16 asks (vector_math.h).
void silu_multiply(ThreadPool& pool, TensorView gate, TensorView up, MutableTensorView out);

/// Adds `delta` [rows, width], of a float type or int8 rows, to rows [first_row, first_row + rows)
/// of `hidden`, fp32 [tokens, width].
void add_residual(ThreadPool& pool, TensorView delta, std::int64_t first_row, Tensor& hidden);

/// add_residual(), then rms_norm() of the same rows, with the bits of both, row by row: memory is
/// gone through once. delta and out [rows, width], of any float type each or both int8 rows, do not
/// meet; out is written in the end of a row, hidden stays with the sum.
void add_and_normalise(ThreadPool& pool, TensorView delta, std::int64_t first_row, Tensor& hidden,
                       const float* weight, double epsilon, MutableTensorView out);

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

/// Causal grouped-query attention inside the TEE: blocked with a running softmax (Milakov and
/// Gimelshein, "Online normalizer calculation for softmax"; Dao et al., "FlashAttention"), so that
/// scores are never stored whole. fp32 inside, out rounded once.
///
/// q [tokens, heads * head_dim], not yet rotated, each element read once; its first row is at
/// `position`. keys (rotated) and values [kv_heads, capacity, head_dim] are a cache's, filled up to
/// position + tokens. out [tokens, heads * head_dim]. NaN or infinity in the values, and nothing
/// else, may also reach rows before it in its block of 64; which ones, and a NaN's own bits, may
/// differ between CPUs.
void blocked_attention(ThreadPool& pool, const RopeTable& table, TensorView q,
                       std::int64_t position, TensorView keys, TensorView values,
                       MutableTensorView out);

/// Index `i` of [0, n) in the order 0, n-1, 1, n-2, ...: causal work, whose cost grows with the
/// index, then splits evenly among threads that take contiguous parts.
inline std::size_t balanced_index(std::size_t i, std::size_t n) {
  return i % 2 == 0 ? i / 2 : n - 1 - i / 2;
}

}  // namespace airlock
