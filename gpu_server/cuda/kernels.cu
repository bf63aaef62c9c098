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
  return launch<RoundRows, round_block>(job, stream);
}

cudaError_t launch_split(const Split& job, cudaStream_t stream) {
  return launch<Split, split_element>(job, stream);
}

cudaError_t launch_combine(const Combine& job, cudaStream_t stream) {
  return launch<Combine, combine_element>(job, stream);
}

}  // namespace airlock::cuda
