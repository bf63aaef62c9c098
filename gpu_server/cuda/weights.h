#pragma once

#include <cstdint>
#include <vector>

#include "gpu_server/cuda/memory.h"
#include "proto/op.h"

/// Internal to gpu_server/cuda.
namespace airlock::cuda {

/// A weight W [n, k] on the device, row-major. Some lie right behind each other: then their rows
/// together are one larger weight.
struct DeviceWeight {
  const std::byte* data = nullptr;
  std::int64_t n = 0;
  std::int64_t k = 0;
};

/// Every weight of a model in one allocation: of each layer q, k and v without a gap, o, gate and
/// up without a gap, down; the embedding table; lm_head, unless it is the table. Never changes once
/// loaded.
class DeviceWeights {
 public:
  /// Copies `model` through pinned buffers, block by block. kResourceExhausted where the device has
  /// too little memory free (need and have); else the model's errors, or the device's.
  static Result<DeviceWeights> load(Device& device, const ModelSource& model,
                                    const CudaOptions& options);

  const DeviceWeight& weight(const WeightId& id) const;
  const DeviceWeight& table() const { return table_; }
  const DeviceWeight& lm_head() const { return lm_head_; }
  DType dtype() const { return dtype_; }

 private:
  /// Where one tensor of the model goes.
  struct Target {
    std::string name;
    DeviceWeight* weight;
    std::size_t offset;
  };
  /// Lays all tensors out from offset 0; returns the bytes they take.
  std::size_t plan(const ModelDims& dims, bool tied, std::vector<Target>& targets);

  DType dtype_ = DType::kF32;
  DeviceMemory memory_;
  std::vector<DeviceWeight> layers_;  // by layer, then by kind
  DeviceWeight table_;
  DeviceWeight lm_head_;
};

}  // namespace airlock::cuda
