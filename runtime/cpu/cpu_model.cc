#include "runtime/cpu/cpu_model.h"

#include <fmt/format.h>

#include "base/log.h"
#include "proto/limits.h"
#include "runtime/cpu/cpu_compute.h"

namespace airlock {

namespace {

Status check_options(const CpuOptions& options) {
  if (!is_float(options.dtype)) {
    return {StatusCode::kInvalidInput, "dtype is {}, expected fp32, fp16 or bf16",
            name_of(options.dtype)};
  }
  if (options.threads < 1 || options.threads > limits::kMaxThreads) {
    return {StatusCode::kInvalidInput, "threads is {}, expected 1 to {}", options.threads,
            limits::kMaxThreads};
  }
  return {};
}

}  // namespace

Result<std::shared_ptr<CpuModel>> CpuModel::create(const ModelSource& model,
                                                   const CpuOptions& options) {
  RETURN_IF_ERROR(check_options(options));
  RETURN_IF_ERROR(model.config().dims.check());
  Numerics numerics{options.dtype, options.dtype};
  if (options.dtype == DType::kF16 || (options.dtype == DType::kBF16 && !cpu_has_bf16())) {
    numerics.held = DType::kF32;
    log_info(
        fmt::format("this CPU does not multiply {0}: weights and operands are rounded to {0} and "
                    "multiplied in fp32",
                    name_of(options.dtype)));
  }
  std::shared_ptr<CpuShared> shared;
  RETURN_IF_ERROR(onednn::guarded([&]() -> Status {
    try {
      shared = std::make_shared<CpuShared>(options.threads);
    } catch (const std::system_error& error) {
      return {StatusCode::kResourceExhausted, "{} threads: {}", options.threads, error.what()};
    }
    return {};
  }));
  ASSIGN_OR_RETURN(std::string digest, model.digest());
  ASSIGN_OR_RETURN(shared->weights,
                   load_weights(model, numerics, shared->engine, options, shared->pool));
  shared->info = {model.config().dims, options.dtype, model.stored_dtype(),
                  options.threads,     "cpu",         std::move(digest)};
  return std::shared_ptr<CpuModel>(new CpuModel(std::move(shared)));
}

const BackendInfo& CpuModel::info() const { return shared_->info; }

std::unique_ptr<Compute> CpuModel::make_compute() { return make_cpu_compute(shared_); }

}  // namespace airlock
