#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "gpu_server/device_group.h"
#include "tests/cuda/fake_rig.h"

namespace airlock::testing {

/// A model, or a share of it, over the first so many devices of the fake.
inline std::shared_ptr<ComputeModel> make_fake_group(const ModelSource& source, DType dtype,
                                                     std::size_t devices,
                                                     const ModelShare* share = nullptr) {
  DeviceGroupGround ground;
  const LlamaConfig& config = source.config();
  if (share != nullptr) {
    ground.share = *share;
    ground.placement = Placement::make_within(config, *share, devices).value();
  } else {
    ground.placement = Placement::make(PlacementKind::kColumns, config, devices, false).value();
    ground.digest = source.digest().value();
  }
  for (std::size_t i = 0; i < devices; ++i) {
    CudaOptions options;
    options.dtype = dtype;
    options.share = &ground.placement->share(i);
    options.device = static_cast<int>(i);
    auto made = airlock_cuda_module()->create(&source, options);
    if (!made.ok()) ADD_FAILURE() << made.status().to_string();
    ground.devices.push_back(std::move(made).value());
  }
  return make_device_group(std::move(ground));
}

}  // namespace airlock::testing
