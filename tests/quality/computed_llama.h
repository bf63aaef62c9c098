#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string_view>

#include "base/status.h"
#include "base/tensor.h"
#include "base/thread_pool.h"
#include "runtime/local_backend.h"
#include "runtime/model/model_source.h"
#include "tee_runner/privacy/private_backend.h"

namespace airlock::testing {

/// How a model is computed.
enum class Way : std::uint8_t {
  kF32,           // --backend local --dtype fp32 --wire fp32
  kBf16,          // --dtype bf16 --wire bf16
  kF32WireInt8,   // --dtype fp32 --wire int8
  kBf16WireInt8,  // --dtype bf16 --wire int8
  kW8,            // --privacy tee-only --int8-weights w8; every private mode has its bits
  kW16,
  kAuto,
};

constexpr std::string_view name_of(Way way) {
  switch (way) {
    case Way::kF32:
      return "fp32";
    case Way::kBf16:
      return "bf16";
    case Way::kF32WireInt8:
      return "fp32, wire int8";
    case Way::kBf16WireInt8:
      return "bf16, wire int8";
    case Way::kW8:
      return "w8";
    case Way::kW16:
      return "w16";
    case Way::kAuto:
      return "auto";
  }
  return {};
}

/// The logits behind every token, fp32 [tokens, vocab], of a driver over `backend` whose attention
/// is in the TEE. Errors as LlamaDriver.
Result<Tensor> all_logits(const ModelSource& model, Backend& backend, DType wire,
                          std::size_t threads, std::span<const std::int32_t> tokens);

/// A model in this process, ready to be asked. One thread.
class ComputedLlama {
 public:
  /// Reads the weights once or, of int8, as make_int8_weights() does. `model` outlives it. Errors
  /// as CpuModel and PrivateModel.
  static Result<std::unique_ptr<ComputedLlama>> create(const ModelSource& model, Way way,
                                                       std::size_t threads = 1);

  Result<Tensor> logits(std::span<const std::int32_t> tokens) {
    return all_logits(model_, backend(), wire_, threads_, tokens);
  }
  Backend& backend() {
    if (private_ != nullptr) return *private_;
    return *local_;
  }
  /// Null where it is not computed in integers.
  const Int8Model* int8() const {
    return private_model_ == nullptr ? nullptr : &private_model_->int8();
  }

 private:
  ComputedLlama(const ModelSource& model, std::size_t threads) : model_(model), threads_(threads) {}
  Status start_floats(DType dtype, DType wire);
  Status start_integers(Int8Weights weights);

  const ModelSource& model_;
  const std::size_t threads_;
  DType wire_ = DType::kF32;
  std::shared_ptr<ThreadPool> pool_;
  std::shared_ptr<CpuModel> floats_;
  PrivacyOptions options_;
  PrivacyStats stats_;
  std::unique_ptr<PrivateModel> private_model_;
  std::optional<LocalBackend> local_;
  std::unique_ptr<PrivateBackend> private_;
};

}  // namespace airlock::testing
