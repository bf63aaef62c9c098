#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/page_buffer.h"
#include "base/tensor.h"
#include "base/thread_pool.h"
#include "proto/op.h"
#include "runtime/cpu/cpu_model.h"
#include "runtime/cpu/numerics.h"
#include "runtime/cpu/onednn.h"

namespace airlock {

/// A weight W [n, k] as the right side of a product: k x n in `layout`, which serves every number
/// of rows.
struct HeldWeight {
  std::int64_t k = 0;
  std::int64_t n = 0;
  dnnl::memory::desc layout;
  // Else plain, W's own rows: k x n of strides (1, k).
  bool packed = false;
  // In `pages`, or the embedding table where the model is tied.
  std::byte* data = nullptr;
  PageBuffer pages;
};

/// Every weight of a model, rounded to numerics.dtype. Never changes once loaded.
struct Weights {
  Numerics numerics;
  std::vector<PerValue<WeightKind, HeldWeight>> layers;
  PageBuffer table_pages;
  TensorView table;  // [vocab, hidden]; tied: of numerics.held, else of numerics.dtype
  HeldWeight lm_head;

  const HeldWeight& weight(const WeightId& id) const { return layers[id.layer][id.kind]; }
};

/// Reads `model` in blocks of rows, so that it is never in memory twice. Errors are the model's, or
/// no memory.
Result<Weights> load_weights(const ModelSource& model, const Numerics& numerics,
                             const dnnl::engine& engine, const LoadOptions& options,
                             ThreadPool& pool);

}  // namespace airlock
