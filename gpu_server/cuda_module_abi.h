#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "gpu_server/module_file.h"
#include "runtime/compute.h"
#include "runtime/model/model_source.h"

/// What gpu_server and its CUDA module (airlock_cuda.so) know of each other. Both are built from
/// one tree by one compiler: C++ types cross, exceptions do not, and the module is never unloaded.
/// The module has its own copy of airlock's libraries, so it logs through `warn` only.
namespace airlock {

inline constexpr const char* kCudaModuleEntry = "airlock_cuda_module";

struct CudaOptions : LoadOptions {
  int device = 0;     // ordinal, as the driver counts
  bool tf32 = false;  // fp32 products may round their operands to TF32
  /// Says what works but not as well as it could. Any thread. May be empty.
  std::function<void(const std::string&)> warn;
};

/// A device for `host` of the statistics and for the banner.
struct CudaDeviceInfo {
  std::string name;    // "NVIDIA H100 80GB HBM3"
  std::string driver;  // the CUDA version that the driver knows, "13.0"
  std::string runtime;
  std::string cublas;
  std::size_t memory_bytes = 0;
};

class CudaModel : public ComputeModel {
 public:
  virtual const CudaDeviceInfo& device() const = 0;
};

struct CudaModule : ModuleHead {
  /// Copies the weights to the device; without a model (null) matmul alone is computed. kDevice (no
  /// such device, driver too old, lost), kResourceExhausted (device memory: need and have), or what
  /// is wrong with the model.
  Result<std::shared_ptr<CudaModel>> (*create)(const ModelSource* model,
                                               const CudaOptions& options) = nullptr;
};

/// What the module exports, by the name kCudaModuleEntry.
using CudaModuleEntry = const CudaModule* (*)();

}  // namespace airlock
