#pragma once

#include <cstddef>
#include <memory>
#include <span>

#include "base/status.h"
#include "runtime/backend.h"

namespace airlock {

/// A model's weights, held by whatever computes with them: this machine's CPU (runtime/cpu) or a
/// GPU (gpu_server/cuda). Thread-safe once made; shared by the backends of all sessions, which keep
/// it alive (shared_ptr: sessions end in any order).
class ComputeModel {
 public:
  virtual ~ComputeModel() = default;
  virtual const BackendInfo& info() const = 0;
  /// A backend for one session's thread. `segments` is memory of this process where most operands
  /// and results will lie (the session's rings); it outlives the backend, which may make it known
  /// to a device. kResourceExhausted, kDevice.
  virtual Result<std::unique_ptr<Backend>> make_backend(
      std::span<const std::span<std::byte>> segments) = 0;
  /// Ok until the device fails for good; then kDevice with what happened, and no op will ever work
  /// again. Any thread.
  virtual Status health() const = 0;
};

}  // namespace airlock
