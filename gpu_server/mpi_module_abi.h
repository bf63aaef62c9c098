#pragma once

#include <memory>

#include "base/status.h"
#include "gpu_server/group/link.h"
#include "gpu_server/module_file.h"

/// What gpu_server and its MPI module (airlock_mpi.so) know of each other, as cuda_module_abi.h.
namespace airlock {

inline constexpr const char* kMpiModuleEntry = "airlock_mpi_module";

struct MpiModule : ModuleHead {
  /// Starts MPI, with the ranks that a launcher (mpirun, srun) has started; once a process. The
  /// calling thread is the link's from then on. Waits for the other ranks as long as the launcher
  /// does. kDevice.
  Result<std::unique_ptr<GroupLink>> (*open)() = nullptr;
};

}  // namespace airlock
