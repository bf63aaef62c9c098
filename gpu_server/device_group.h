#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "runtime/compute.h"
#include "runtime/placement/placement.h"

namespace airlock {

/// Several devices of this process that are one model: each holds some columns of every weight, and
/// writes its columns of an op's results where the caller wants them. Matmul is each one's in turn.
struct DeviceGroupGround {
  // By columns, a device a rank; nothing: there is no model, and matmul alone.
  std::optional<Placement> placement;
  // What the devices hold together; nothing: the whole model.
  std::optional<ModelShare> share = {};
  std::string digest = {};  // of the whole model
  // At least one, as many as the placement has ranks; each takes pitches of results (OpMemory).
  std::vector<std::shared_ptr<ComputeModel>> devices = {};
};

/// A session's thread gives an op to all devices before it waits for any. The first device that
/// fails ends the op, and one that fails for good the model (health() says which).
std::shared_ptr<ComputeModel> make_device_group(DeviceGroupGround ground);

}  // namespace airlock
