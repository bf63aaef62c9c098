#pragma once

#include <cuda_runtime_api.h>

#include "gpu_server/cuda/elements.h"

/// Internal to gpu_server/cuda. The kernels that cuBLAS does not have. Each queues its work on
/// `stream` and returns; pointers are device memory.
namespace airlock::cuda {

cudaError_t launch_convert(const Conversion& job, cudaStream_t stream);
cudaError_t launch_gather(const Gather& job, cudaStream_t stream);
cudaError_t launch_widen_rows(const WidenRows& job, cudaStream_t stream);
cudaError_t launch_round_rows(const RoundRows& job, cudaStream_t stream);
cudaError_t launch_split(const Split& job, cudaStream_t stream);
cudaError_t launch_combine(const Combine& job, cudaStream_t stream);

}  // namespace airlock::cuda
