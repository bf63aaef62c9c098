#pragma once

#include <string>

#include "base/status.h"
#include "gpu_server/mpi_module_abi.h"

namespace airlock {

/// Loads airlock_mpi.so, as load_cuda_module().
Result<const MpiModule*> load_mpi_module(const std::string& path);

}  // namespace airlock
