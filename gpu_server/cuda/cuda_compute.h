#pragma once

#include <memory>
#include <span>

#include "gpu_server/cuda/session.h"

/// Internal to gpu_server/cuda.
namespace airlock::cuda {

/// A Compute on streams of its own; it and its ops on one thread. `shared` lives as long as the
/// last of them. Two ops are on the device at once, more wait in the order of their submit(). An
/// op's server_ns is the device's own time of its copies and products, queue_ns the rest from
/// submit() to its end.
Result<std::unique_ptr<Compute>> make_cuda_compute(std::shared_ptr<Shared> shared,
                                                   std::span<const std::span<std::byte>> segments);

}  // namespace airlock::cuda
