#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "proto/op.h"
#include "runtime/trace/trace.h"

namespace airlock::trace {

/// "bf16[32x1024x64]"; the shape of a scalar is "-".
std::string desc_text(const TensorDesc& desc);
/// "bf16[32x1024x64] bf16[8x1024x64] -> bf16[32x1024x1024]".
std::string shapes_text(const TraceRecord& record);
/// "0.q_proj".
std::string weight_text(const WeightId& weight);
/// "-" where nothing was crossed.
std::string_view path_text(const std::optional<Path>& path);

}  // namespace airlock::trace
