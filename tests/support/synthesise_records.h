#pragma once

#include <cstdint>
#include <vector>

#include "runtime/trace/trace.h"

namespace airlock {

/// The ops of `runs` passes of one shape, which fits `dims`, as records whose times are 0.
inline std::vector<TraceRecord> synthesise_records(const ModelDims& dims, const ForwardShape& shape,
                                                   const PathPolicy& policy,
                                                   std::uint64_t runs = 1) {
  const std::vector<PlannedOp> plan = plan_forward(dims, shape).value();
  std::vector<TraceRecord> records;
  for (std::uint64_t seq = 0; seq < runs * plan.size(); ++seq)
    records.push_back(synthesise_record(plan, seq, dims, policy));
  return records;
}

}  // namespace airlock
