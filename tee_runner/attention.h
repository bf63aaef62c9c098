#pragma once

#include "base/tensor.h"
#include "base/thread_pool.h"
#include "proto/op.h"
#include "tee_runner/rope.h"

namespace airlock {

/// Causal grouped-query attention inside the TEE, with RoPE: blocked with a running softmax
/// (Milakov and Gimelshein, "Online normalizer calculation for softmax"; Dao et al.,
/// "FlashAttention"), so that scores are never stored whole. fp32 inside, out rounded once. q
/// [tokens, heads * head_dim]; k, v [tokens, kv_heads * head_dim], each element read once; out
/// [tokens, heads * head_dim]. For the bits what kernels.h says holds; only NaN or infinity in v
/// also reaches the rows before it in its block of 64.
void blocked_attention(ThreadPool& pool, const ModelDims& dims, const RopeTable& table,
                       TensorView q, TensorView k, TensorView v, MutableTensorView out);

}  // namespace airlock
