#pragma once

#include <optional>
#include <span>
#include <vector>

#include "proto/path.h"
#include "runtime/model/prefill_plan.h"
#include "runtime/trace/trace.h"

namespace airlock {

/// The ops of a prefill as records whose times are 0: shapes, layers, and the path of each tensor.
/// `runs` prefills, one after the other.
std::vector<TraceRecord> synthesise_records(const ModelDims& dims, const PrefillShape& shape,
                                            const PathPolicy& policy, std::uint64_t runs = 1);

/// The record of one op with these results, its layer and times unknown.
TraceRecord make_record(const OpSpec& spec, std::span<const TensorDesc> results,
                        const std::optional<PathPolicy>& policy);
/// The same with its layer. `spec` fits `dims` (CHECKed).
TraceRecord make_record(const OpSpec& spec, std::optional<std::uint16_t> layer,
                        const ModelDims& dims, const std::optional<PathPolicy>& policy);

}  // namespace airlock
