#pragma once

#include <cstddef>
#include <memory>
#include <optional>

#include "base/status.h"
#include "base/thread_pool.h"
#include "runtime/compute.h"
#include "runtime/cpu/cpu_model.h"
#include "runtime/exact/int8_weights.h"
#include "runtime/model/model_source.h"
#include "tee_runner/privacy/check.h"
#include "tee_runner/privacy/embedding.h"
#include "tee_runner/privacy/privacy_options.h"
#include "tee_runner/privacy/secret.h"

namespace airlock {

/// What a private mode holds of a model, made once a process and shared by the sessions that follow
/// each other: the embedding table, how inputs are rounded and results scaled, what products are
/// checked with, and where this process multiplies itself (tee-only, pads of its own) the int8
/// weights. Never changes once made; thread-safe but for what is said.
class PrivateModel {
 public:
  /// Reads all weights once: seconds for a billion of them. `threads` of the products here. Errors
  /// as make_int8_weights(), BootSecret::create() and CpuModel::create_for_int8().
  static Result<std::unique_ptr<PrivateModel>> create(const ModelSource& model,
                                                      const PrivacyOptions& options,
                                                      std::size_t threads);

  const ModelDims& dims() const { return dims_; }
  const EmbeddingTable& embedding() const { return *embedding_; }
  const Int8Model& int8() const { return *int8_; }
  const BootSecret& secret() const { return *secret_; }
  /// Null where the mode checks nothing.
  const ModelCheck* check() const { return check_.get(); }
  /// A compute for int_linear and pad_linear in this process; null where the mode needs none.
  std::unique_ptr<Compute> make_compute() const;
  /// Of this process alone.
  std::size_t held_bytes() const;

 private:
  ModelDims dims_;
  std::unique_ptr<BootSecret> secret_;
  std::unique_ptr<EmbeddingTable> embedding_;
  std::unique_ptr<ModelCheck> check_;
  std::shared_ptr<CpuModel> products_;
  std::optional<Int8Model> own_int8_;  // where there are no products
  const Int8Model* int8_ = nullptr;
};

}  // namespace airlock
