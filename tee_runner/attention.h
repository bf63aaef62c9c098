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
/// [tokens, heads * head_dim]. The bits do not depend on the number of threads.
void blocked_attention(ThreadPool& pool, const ModelDims& dims, const RopeTable& table,
                       TensorView q, TensorView k, TensorView v, MutableTensorView out);

}  // namespace airlock
