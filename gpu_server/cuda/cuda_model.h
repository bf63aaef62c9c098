#pragma once

#include <memory>

#include "gpu_server/cuda_module_abi.h"

/// Internal to gpu_server/cuda.
namespace airlock::cuda {

/// CudaModule::create. Loads, then runs each kind of op once. Never throws.
Result<std::shared_ptr<CudaModel>> create_model(const ModelSource& model,
                                                const CudaOptions& options);

}  // namespace airlock::cuda
