#pragma once

#include <span>

#include "base/deadline.h"
#include "base/patience.h"
#include "gpu_server/cuda/device.h"

/// Internal to gpu_server/cuda. How the host waits for the device: it looks, again and again, so
/// that no wait is without an end and none holds more than it waits for.
namespace airlock::cuda {

/// Looks at an event before naps come between: an op of a few microseconds is answered at once.
inline constexpr int kSpins = 2000;

/// What cudaEventQuery() or cudaStreamQuery() said: whether it is over. An error here is what
/// became of queued work, so the device is lost.
inline Result<bool> is_over(Device& device, cudaError_t answer) {
  if (answer == cudaSuccess) return true;
  if (answer == cudaErrorNotReady) return false;
  return device.lose(device.check(answer, "run an op").message());
}

/// kDevice, and the device is lost, where it does not come to that in time.
inline Status wait_for_event(Device& device, cudaEvent_t event, Deadline deadline) {
  for (Patience patience(kSpins);; patience.pause()) {
    if (device.lost()) return device.health();
    ASSIGN_OR_RETURN(const bool over, is_over(device, cudaEventQuery(event)));
    if (over) return {};
    if (deadline.expired()) return device.lose(device.label() + " does not finish a copy");
  }
}

/// Until nothing is queued on any of them. As above.
inline Status wait_for_streams(Device& device, std::span<const cudaStream_t> streams,
                               Deadline deadline) {
  for (const cudaStream_t stream : streams) {
    for (Patience patience(kSpins);; patience.pause()) {
      if (device.lost()) return device.health();
      ASSIGN_OR_RETURN(const bool over, is_over(device, cudaStreamQuery(stream)));
      if (over) break;
      if (deadline.expired())
        return device.lose(device.label() + " does not finish what is queued");
    }
  }
  return {};
}

}  // namespace airlock::cuda
