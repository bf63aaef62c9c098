#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <utility>

#include "base/status.h"
#include "runtime/compute.h"
#include "runtime/model/model_source.h"

namespace airlock {

struct CpuOptions {
  DType dtype = DType::kF32;
  // Compute threads in all, shared op by op among the Computes made from one CpuModel.
  std::size_t threads = 1;
  /// Called now and then while weights load: bytes done, bytes in all. May be empty.
  std::function<void(std::size_t done_bytes, std::size_t total_bytes)> progress;
};

struct CpuShared;

/// The weights in oneDNN's packed layout and the turn-taking for the compute threads.
class CpuModel : public ComputeModel {
 public:
  static Result<std::shared_ptr<CpuModel>> create(const ModelSource& model,
                                                  const CpuOptions& options);
  const BackendInfo& info() const override;
  /// As below, without memory to look at in advance: on a CPU that cannot fail.
  std::unique_ptr<Compute> make_compute();
  Result<std::unique_ptr<Compute>> make_compute(std::span<const std::span<std::byte>>) override {
    return make_compute();
  }
  Status health() const override { return {}; }

 private:
  explicit CpuModel(std::shared_ptr<CpuShared> shared) : shared_(std::move(shared)) {}
  // Its Computes hold it too.
  std::shared_ptr<CpuShared> shared_;
};

/// Whether this CPU multiplies bf16 itself (AVX-512); else bf16 weights are multiplied in fp32
/// after rounding.
bool cpu_has_bf16();

}  // namespace airlock
