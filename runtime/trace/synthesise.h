#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "proto/path.h"
#include "runtime/model/forward_plan.h"
#include "runtime/trace/trace.h"

namespace airlock {

/// The record of one op, its times 0. `spec` fits `dims` (CHECKed).
TraceRecord make_record(const OpSpec& spec, std::optional<std::uint16_t> layer,
                        const ModelDims& dims, const std::optional<PathPolicy>& policy);

/// Record number `seq` of a trace that runs `plan`, made for `dims`, again and again. Its times are
/// 0.
TraceRecord synthesise_record(std::span<const PlannedOp> plan, std::uint64_t seq,
                              const ModelDims& dims, const PathPolicy& policy);

}  // namespace airlock
