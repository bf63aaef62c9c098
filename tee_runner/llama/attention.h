#pragma once

#include <cstdint>

#include "base/tensor.h"
#include "base/thread_pool.h"
#include "tee_runner/llama/rope.h"

namespace airlock {

/// Causal grouped-query attention inside the TEE: blocked with a running softmax (Milakov and
/// Gimelshein, "Online normalizer calculation for softmax"; Dao et al., "FlashAttention"), so that
/// scores are never stored whole. fp32 inside, out rounded once.
///
/// q [tokens, heads * head_dim], not yet rotated, each element read once; its first row is at
/// `position`. keys (rotated) and values [kv_heads, capacity, head_dim] are a cache's, filled up to
/// position + tokens. out [tokens, heads * head_dim]. For the bits what kernels.h says holds; only
/// NaN or infinity in the values also reaches the rows before it in its block of 64.
void blocked_attention(ThreadPool& pool, const RopeTable& table, TensorView q,
                       std::int64_t position, TensorView keys, TensorView values,
                       MutableTensorView out);

}  // namespace airlock
