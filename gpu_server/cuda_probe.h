#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace airlock {

/// What the NVIDIA driver says of this machine.
struct CudaProbe {
  int driver_version = 0;  // the CUDA version that it knows, 1000 * major + 10 * minor
  std::vector<std::string> device_names;  // by ordinal; at least one
};

/// Asks the driver, which is looked for now (dlopen of libcuda.so.1) and stays loaded. kDevice: one
/// sentence that says what is lacking: the driver, a device, the right to use it, or what the
/// driver answered. The driver starts here, which may take seconds. One thread.
Result<CudaProbe> probe_cuda();

/// Why the driver's start failed with `error`, called `name` (perhaps empty) there. The first of
/// `device_files` that exists and may not be opened is the reason, whatever the driver says.
Status explain_cuda_start(int error, std::string_view name,
                          std::span<const std::string> device_files);

}  // namespace airlock
