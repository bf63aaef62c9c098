#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"
#include "gpu_server/options.h"
#include "runtime/compute.h"
#include "runtime/model/model_source.h"
#include "runtime/stats/report.h"

namespace airlock {

/// What the options say to serve: there is a model.
Result<std::unique_ptr<ModelSource>> open_source(const ServerOptions& options);

/// What --device came to on this machine.
struct DeviceChoice {
  // None: the CPU. Several: some columns of each weight on each.
  std::vector<int> cuda_ordinals;
  std::string name;            // "cuda:0 NVIDIA H100", with commas; of the CPU "cpu"
  bool may_fall_back = false;  // to the CPU: --device auto
};

/// Asks the driver where --device says so; `auto` is the CPU where there is no GPU, and the log
/// says why. kDevice: the device that was asked for is not there. `cpu` asks nobody and takes no
/// time. Of processes that share a machine each takes the GPU of its number `local_rank`, unless
/// some are named.
Result<DeviceChoice> choose_device(const ServerOptions& options, std::size_t local_rank = 0);

struct LoadedCompute {
  std::shared_ptr<ComputeModel> model;  // the sessions' too: ComputeModel says why
  // Of a GPU; of several the first, with the memory of all.
  std::optional<DeviceReport> device;
};

/// Loads the model onto the device, with a progress bar; without one (null) the device multiplies
/// its clients' own arrays alone. A GPU that lacks a library or memory is
/// passed over with one warning where the choice allows it. `share`: as LoadOptions has it.
Result<LoadedCompute> load_compute(const ServerOptions& options, const DeviceChoice& choice,
                                   const ModelSource* source, const ModelShare* share = nullptr);

/// Makes the int8 weights of one plane before a session asks for them, with a progress bar.
/// `source` is what `model` was loaded from.
Status preload_int8(const ModelSource& source, ComputeModel& model);

}  // namespace airlock
