#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/status.h"
#include "base/thread_pool.h"
#include "runtime/compute.h"
#include "runtime/exact/int8_weights.h"
#include "runtime/model/model_source.h"

namespace airlock {

struct CpuShared;

/// The weights in oneDNN's packed layout and the turn-taking for the compute threads. Products of
/// fp64 are BLIS's.
class CpuModel : public ComputeModel {
 public:
  /// `pool`, of options.threads, computes; it is used only while an op of this model runs or its
  /// weights load, so that one thread's other work may share it. Null: one of the model's own.
  static Result<std::shared_ptr<CpuModel>> create(const ModelSource& model,
                                                  const LoadOptions& options,
                                                  std::shared_ptr<ThreadPool> pool = nullptr);
  /// Without weights: matmul alone, of fp32 (what other operands are converted to) and of fp64.
  static Result<std::shared_ptr<CpuModel>> create_without_weights(std::size_t threads);
  /// With int8 weights alone, made now: int_linear and pad_linear, and matmul as above. `also` gets
  /// every block of them too, on several threads at once, and may be empty. `pool` as above.
  static Result<std::shared_ptr<CpuModel>> create_for_int8(const ModelSource& model,
                                                           Int8Weights weights, std::size_t threads,
                                                           std::shared_ptr<ThreadPool> pool,
                                                           const Int8Sink& also);
  const BackendInfo& info() const override;
  /// As below, without memory to look at in advance: on a CPU that cannot fail.
  std::unique_ptr<Compute> make_compute();
  Result<std::unique_ptr<Compute>> make_compute(std::span<const std::span<std::byte>>) override {
    return make_compute();
  }
  /// On threads of its own: the ops of other sessions go on meanwhile.
  Result<std::string> prepare_int8(const ModelSource& model, Int8Weights weights,
                                   const Int8Progress& progress) override;
  Result<std::vector<Int8Line>> prepare_int8_share(const ModelSource& model, Int8Weights weights,
                                                   const Int8Progress& progress) override;
  /// Of the last int8 weights made; null before. Lives as long as the model. Any thread.
  const Int8Model* int8() const;
  Status health() const override { return {}; }

 private:
  explicit CpuModel(std::shared_ptr<CpuShared> shared) : shared_(std::move(shared)) {}
  // Its Computes hold it too.
  std::shared_ptr<CpuShared> shared_;
};

}  // namespace airlock
