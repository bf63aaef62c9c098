#include <exception>
#include <string>

#include "base/version.h"
#include "gpu_server/cuda/cuda_model.h"

namespace {

using namespace airlock;

// Exceptions do not cross the module's border.
Result<std::shared_ptr<CudaModel>> create(const ModelSource& model, const CudaOptions& options) {
  try {
    return cuda::create_model(model, options);
  } catch (const std::bad_alloc&) {
    return Status(StatusCode::kResourceExhausted, "out of memory");
  } catch (const std::exception& error) {
    return Status(StatusCode::kInternal, std::string("the CUDA module: ") + error.what());
  }
}

}  // namespace

extern "C" __attribute__((visibility("default"))) const airlock::CudaModule* airlock_cuda_module() {
  static const CudaModule module{kCudaModuleAbi, kVersion, create};
  return &module;
}
