#pragma once

#include <memory>

#include "base/status.h"
#include "gpu_server/group/leader.h"
#include "runtime/compute.h"
#include "runtime/placement/placement.h"

namespace airlock {

/// A model that lies on several ranks, as rank 0's sessions see it: its own share is computed by
/// the session's thread, the others by their ranks at the same time.
struct GroupGround {
  GroupLeader& leader;  // outlives the model and its Computes
  Placement placement;
  BackendInfo info;  // of the whole
  // Rank 0's share; null where it has none (--door-only).
  std::shared_ptr<ComputeModel> own;
};

std::shared_ptr<ComputeModel> make_group_model(GroupGround ground);

}  // namespace airlock
