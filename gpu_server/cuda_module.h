#pragma once

#include <string>

#include "base/status.h"
#include "gpu_server/cuda_module_abi.h"

namespace airlock {

/// Loads airlock_cuda.so: the file at `path`, or, where that is empty, the one beside this
/// executable or in ../lib/airlock. It stays loaded. kDevice: one sentence that says what is
/// lacking (the file, a library that it needs, an interface that is ours).
Result<const CudaModule*> load_cuda_module(const std::string& path);

}  // namespace airlock
