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

}  // namespace

cudaError_t launch_convert(const Conversion& job, cudaStream_t stream) {
  for_each_element<Conversion, convert_element>
      <<<block_count(job.count()), kThreads, 0, stream>>>(job);
  return cudaGetLastError();
}

cudaError_t launch_gather(const Gather& job, cudaStream_t stream) {
  for_each_element<Gather, gather_element><<<block_count(job.count()), kThreads, 0, stream>>>(job);
  return cudaGetLastError();
}

}  // namespace airlock::cuda
