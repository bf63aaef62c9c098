#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace airlock {

/// This machine's GPUs by ordinal, at least one: "cuda:0 NVIDIA H100". Asks the driver, which is
/// looked for now (dlopen of libcuda.so.1) and stays loaded. kDevice: one sentence that says what
/// is lacking: the driver, a device, the right to use it, or what the driver answered. The driver
/// starts here, which may take seconds. One thread.
Result<std::vector<std::string>> probe_cuda();

/// Why the driver's start failed with `error`, called `name` (perhaps empty) there. The first of
/// `device_files` that exists and may not be opened is the reason, whatever the driver says.
Status explain_cuda_start(int error, std::string_view name,
                          std::span<const std::string> device_files);

}  // namespace airlock
