#include "tests/quality/computed_llama.h"

#include <utility>

#include "tee_runner/llama/driver.h"

namespace airlock::testing {

Result<Tensor> all_logits(const ModelSource& model, Backend& backend, DType wire,
                          std::size_t threads, std::span<const std::int32_t> tokens) {
  ASSIGN_OR_RETURN(Tensor norms, read_norms(model));
  LlamaOptions options;
  options.wire = wire;
  options.attention = Attention::kTee;
  options.logits = Logits::kAll;
  options.threads = threads;
  TeeStatsTable stats;
  ASSIGN_OR_RETURN(const auto driver,
                   LlamaDriver::create(model.config(), std::move(norms), options, backend, stats));
  return driver->prefill(tokens);
}

Status ComputedLlama::start_floats(DType dtype, DType wire) {
  wire_ = wire;
  ASSIGN_OR_RETURN(floats_,
                   CpuModel::create(model_, {.dtype = dtype, .threads = threads_, .progress = {}}));
  local_.emplace(floats_->make_compute());
  return {};
}

Status ComputedLlama::start_integers(Int8Weights weights) {
  options_.mode = PrivacyMode::kTeeOnly;
  options_.int8_weights = weights;
  ASSIGN_OR_RETURN(pool_, ThreadPool::create(threads_));
  ASSIGN_OR_RETURN(private_model_, PrivateModel::create(model_, options_, threads_));
  local_.emplace(private_model_->make_compute());
  ASSIGN_OR_RETURN(private_, PrivateBackend::create({*private_model_, options_, *local_, nullptr,
                                                     nullptr, *pool_, stats_}));
  return {};
}

Result<std::unique_ptr<ComputedLlama>> ComputedLlama::create(const ModelSource& model, Way way,
                                                             std::size_t threads) {
  std::unique_ptr<ComputedLlama> made(new ComputedLlama(model, threads));
  switch (way) {
    case Way::kF32:
      RETURN_IF_ERROR(made->start_floats(DType::kF32, DType::kF32));
      break;
    case Way::kBf16:
      RETURN_IF_ERROR(made->start_floats(DType::kBF16, DType::kBF16));
      break;
    case Way::kF32WireInt8:
      RETURN_IF_ERROR(made->start_floats(DType::kF32, DType::kI8));
      break;
    case Way::kBf16WireInt8:
      RETURN_IF_ERROR(made->start_floats(DType::kBF16, DType::kI8));
      break;
    case Way::kW8:
      RETURN_IF_ERROR(made->start_integers(Int8Weights::kW8));
      break;
    case Way::kW16:
      RETURN_IF_ERROR(made->start_integers(Int8Weights::kW16));
      break;
    case Way::kAuto:
      RETURN_IF_ERROR(made->start_integers(Int8Weights::kAuto));
      break;
  }
  return made;
}

}  // namespace airlock::testing
