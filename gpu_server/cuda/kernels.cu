#include "gpu_server/cuda/kernels.h"

namespace airlock::cuda {

namespace {

constexpr int kThreads = 256;
constexpr std::int64_t kMaxBlocks = 4096;  // enough to fill any GPU; each walks on by the grid

int block_count(std::int64_t count) {
  const std::int64_t blocks = (count + kThreads - 1) / kThreads;
  return static_cast<int>(blocks < kMaxBlocks ? blocks : kMaxBlocks);
}

template <typename Job, void (*Element)(const Job&, std::int64_t)>
__global__ void for_each_element(Job job) {
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
       i < job.count(); i += step) {
    Element(job, i);
  }
}

/// Returns this launch's own error. (The <<<>>> form leaves it in cudaGetLastError(), where a
/// cudaErrorNotReady of an earlier query may lie.)
template <typename Job, void (*Element)(const Job&, std::int64_t)>
cudaError_t launch(Job job, cudaStream_t stream) {
  void* arguments[] = {&job};
  return cudaLaunchKernel(reinterpret_cast<const void*>(&for_each_element<Job, Element>),
                          dim3(block_count(job.count())), dim3(kThreads), arguments, 0, stream);
}

/// A block a row, and on by the grid.
__global__ void round_each_row(RoundRows job) {
  __shared__ std::uint32_t largest_of[kThreads];
  for (std::int64_t row = blockIdx.x; row < job.rows; row += gridDim.x) {
    largest_of[threadIdx.x] = largest_bits(job, row, threadIdx.x, kThreads);
    for (int half = kThreads / 2; half > 0; half /= 2) {
      __syncthreads();
      if (threadIdx.x < half) {
        const std::uint32_t other = largest_of[threadIdx.x + half];
        if (largest_of[threadIdx.x] < other) largest_of[threadIdx.x] = other;
      }
    }
    __syncthreads();
    const std::uint32_t largest = largest_of[0];
    __syncthreads();  // before the next row is written there
    round_columns(job, row, largest, threadIdx.x, kThreads);
  }
}

}  // namespace

cudaError_t launch_convert(const Conversion& job, cudaStream_t stream) {
  return launch<Conversion, convert_element>(job, stream);
}

cudaError_t launch_gather(const Gather& job, cudaStream_t stream) {
  return launch<Gather, gather_element>(job, stream);
}

cudaError_t launch_widen_rows(const WidenRows& job, cudaStream_t stream) {
  return launch<WidenRows, widen_element>(job, stream);
}

cudaError_t launch_round_rows(const RoundRows& job, cudaStream_t stream) {
  RoundRows copy = job;
  void* arguments[] = {&copy};
  const auto blocks = static_cast<int>(job.rows < kMaxBlocks ? job.rows : kMaxBlocks);
  return cudaLaunchKernel(reinterpret_cast<const void*>(&round_each_row), dim3(blocks),
                          dim3(kThreads), arguments, 0, stream);
}

cudaError_t launch_split(const Split& job, cudaStream_t stream) {
  return launch<Split, split_element>(job, stream);
}

cudaError_t launch_combine(const Combine& job, cudaStream_t stream) {
  return launch<Combine, combine_element>(job, stream);
}

}  // namespace airlock::cuda
