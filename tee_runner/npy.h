#pragma once

#include <string>

#include "base/status.h"
#include "base/tensor.h"

namespace airlock {

/// Writes `tensor` (fp32, [vocab] or [tokens, vocab]) as a NumPy .npy file of version 1.0: mode
/// 0600, beside the target first and then renamed over it, so that a reader sees the old file or
/// the whole new one. kInvalidInput with the path.
Status write_npy(const std::string& path, TensorView tensor);

}  // namespace airlock
