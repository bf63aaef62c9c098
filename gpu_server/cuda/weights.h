#pragma once

#include <cstdint>
#include <vector>

#include "gpu_server/cuda/memory.h"
#include "proto/op.h"

/// Internal to gpu_server/cuda.
namespace airlock::cuda {

/// A weight W [n, k] on the device, row-major; of a share the rows that it has of it. Some lie
/// right behind each other: then their rows together are one larger weight.
struct DeviceWeight {
  std::byte* data = nullptr;
  std::int64_t n = 0;  // 0: nothing is held
  std::int64_t k = 0;

  std::size_t bytes(DType dtype) const {
    return static_cast<std::size_t>(n * k) * dtype_bytes(dtype);
  }
};

/// Every weight of a model in one allocation: of each layer q, k and v without a gap, o, gate and
/// up without a gap, down; the embedding table; lm_head, unless it is rows of the table; of a share
/// what it has of them. Never changes once loaded. As it is made: none, where there is no model.
struct DeviceWeights {
  DType dtype = DType::kF32;
  DeviceMemory memory;
  std::vector<PerValue<WeightKind, DeviceWeight>> layers;
  DeviceWeight table;
  DeviceWeight lm_head;

  const DeviceWeight& weight(const WeightId& id) const { return layers[id.layer][id.kind]; }
};

/// Copies what options.share has of `model` through pinned buffers, block by block.
/// kResourceExhausted where the device has too little memory free (need and have); else the model's
/// errors, or the device's.
Result<DeviceWeights> load_weights(Device& device, const ModelSource& model,
                                   const CudaOptions& options);

}  // namespace airlock::cuda
