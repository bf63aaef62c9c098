#include "gpu_server/cuda_module_abi.h"

extern "C" const airlock::CudaModule* airlock_cuda_module();

/// Pulls the module's entry, and all below it, out of the archive.
extern "C" __attribute__((visibility("default"), used)) const void* airlock_cuda_fake_root() {
  return airlock_cuda_module();
}
