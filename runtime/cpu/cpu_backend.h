#pragma once

#include <cstddef>
#include <functional>
#include <memory>

#include "base/status.h"
#include "runtime/compute_model.h"
#include "runtime/model/model_source.h"

namespace airlock {

struct CpuOptions {
  DType dtype = DType::kF32;
  std::size_t threads =
      1;  // compute threads in all, shared op by op among the backends made from one CpuModel
  /// Called now and then while weights load: bytes done, bytes in all. May be empty.
  std::function<void(std::size_t done_bytes, std::size_t total_bytes)> progress;
};

/// The weights in oneDNN's packed layout and the turn-taking for the compute threads.
class CpuModel : public ComputeModel {
 public:
  using ComputeModel::make_backend;
  static Result<std::shared_ptr<CpuModel>> create(const ModelSource& model,
                                                  const CpuOptions& options);
  /// As ComputeModel's, without memory to look at in advance: on a CPU that cannot fail.
  virtual std::unique_ptr<Backend> make_backend() = 0;
};

/// Whether this CPU multiplies bf16 itself (AVX-512); else bf16 weights are multiplied in fp32
/// after rounding.
bool cpu_has_bf16();

}  // namespace airlock
