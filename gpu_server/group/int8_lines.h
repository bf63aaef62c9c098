#pragma once

#include <span>
#include <string>

#include "base/status.h"
#include "gpu_server/group/leader.h"
#include "runtime/compute.h"
#include "runtime/exact/int8_weights.h"

namespace airlock {

/// How ranks tell each other what they have made: "NUMBER DIGEST" and a newline for each.
std::string int8_text(std::span<const Int8Line> lines);

/// Makes this rank's int8 weights (`own`; null: it has none) while the others make theirs, and
/// gives the digest of all. As ComputeModel::prepare_int8().
Result<std::string> prepare_group_int8(GroupLeader& leader, ComputeModel* own,
                                       const ModelSource& source, Int8Weights weights,
                                       const Int8Progress& progress);

}  // namespace airlock
