#include "gpu_server/mpi_module.h"

namespace airlock {

Result<const MpiModule*> load_mpi_module(const std::string& path) {
  constexpr ModuleKind kKind{"MPI module", "airlock_mpi.so", "--mpi-module", kMpiModuleEntry,
                             "build where cmake finds MPI (libopenmpi-dev)"};
  ASSIGN_OR_RETURN(const MpiModule* module, load_module<MpiModule>(kKind, path));
  if (module->open == nullptr) {
    return Status(StatusCode::kDevice, "the MPI module {} lacks a function: open",
                  path.empty() ? kKind.file_name : path);
  }
  return module;
}

}  // namespace airlock
