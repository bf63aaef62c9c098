#include "gpu_server/cuda_module.h"

namespace airlock {

Result<const CudaModule*> load_cuda_module(const std::string& path) {
  constexpr ModuleKind kKind{"CUDA module", "airlock_cuda.so", "--cuda-module", kCudaModuleEntry,
                             "build where cmake finds the CUDA toolkit"};
  ASSIGN_OR_RETURN(const CudaModule* module, load_module<CudaModule>(kKind, path));
  if (module->create == nullptr) {
    return Status(StatusCode::kDevice, "the CUDA module {} lacks a function: create",
                  path.empty() ? kKind.file_name : path);
  }
  return module;
}

}  // namespace airlock
