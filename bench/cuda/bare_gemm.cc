#include "bench/cuda/bare_gemm.h"

#include <algorithm>
#include <span>

#include "base/check.h"
#include "bench/cuda/bench_model.h"
#include "bench/cuda/check.h"

namespace airlock::bench {

namespace {

constexpr std::size_t kPatternBytes = std::size_t{16} << 20;

cudaDataType_t cuda_type(DType dtype) {
  switch (dtype) {
    case DType::kBF16:
      return CUDA_R_16BF;
    case DType::kF16:
      return CUDA_R_16F;
    case DType::kU8:
      return CUDA_R_8I;
    case DType::kI32:
      return CUDA_R_32I;
    default:
      return CUDA_R_32F;
  }
}

/// Random numbers on the device, a block of them over and over.
void fill_device(const DeviceBuffer& buffer, std::size_t size, DType dtype, const Stream& stream) {
  std::vector<std::byte> pattern(std::min(size, kPatternBytes));
  fill_random(pattern, dtype, size);
  for (std::size_t done = 0; done < size; done += pattern.size()) {
    must(
        cudaMemcpyAsync(buffer.data() + done, pattern.data(), std::min(pattern.size(), size - done),
                        cudaMemcpyHostToDevice, stream.get()),
        "cudaMemcpyAsync");
  }
  stream.wait();
}

/// cuBLAS set up as the module has it: its own workspace, no reduced-precision reductions, no TF32.
class Cublas {
 public:
  Cublas(cudaStream_t stream, std::size_t workspace_bytes) : workspace_(workspace_bytes) {
    must(cublasCreate(&handle_), "cublasCreate");
    must(cublasSetStream(handle_, stream), "cublasSetStream");
    must(cublasSetWorkspace(handle_, workspace_.data(), workspace_bytes), "cublasSetWorkspace");
    const int mode = CUBLAS_DEFAULT_MATH | CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION;
    must(cublasSetMathMode(handle_, static_cast<cublasMath_t>(mode)), "cublasSetMathMode");
  }
  ~Cublas() { cublasDestroy(handle_); }
  Cublas(const Cublas&) = delete;
  Cublas& operator=(const Cublas&) = delete;
  cublasHandle_t get() const { return handle_; }

 private:
  DeviceBuffer workspace_;
  cublasHandle_t handle_ = nullptr;
};

/// Whether the device has room for so much more.
bool has_room(std::size_t size) {
  void* data = nullptr;
  const cudaError_t error = cudaMalloc(&data, size);
  if (error == cudaErrorMemoryAllocation) {
    static_cast<void>(cudaGetLastError());
    return false;
  }
  must(error, "cudaMalloc");
  must(cudaFree(data), "cudaFree");
  return true;
}

std::size_t bytes_of(const Product& p, std::int64_t elements, DType dtype) {
  return static_cast<std::size_t>(p.batch * elements) * dtype_bytes(dtype);
}

/// The operands of one product on the device. cuBLAS is column-major: c^T = b' a^T.
class Gemm {
 public:
  Gemm(const Product& product, const Stream& stream)
      : p_(product),
        a_bytes_(bytes_of(p_, p_.m * p_.k, p_.operands)),
        b_bytes_(bytes_of(p_, p_.n * p_.k, p_.operands)),
        a_(a_bytes_),
        b_(b_bytes_),
        c_(bytes_of(p_, p_.m * p_.n, p_.result)) {
    fill_device(a_, a_bytes_, p_.operands, stream);
    fill_device(b_, b_bytes_, p_.operands, stream);
  }

  void queue(cublasHandle_t handle) const {
    const bool is_int8 = p_.operands == DType::kU8;
    const float one_f32 = 1;
    const float zero_f32 = 0;
    const std::int32_t one_i32 = 1;
    const std::int32_t zero_i32 = 0;
    const void* one = is_int8 ? static_cast<const void*>(&one_i32) : &one_f32;
    const void* zero = is_int8 ? static_cast<const void*>(&zero_i32) : &zero_f32;
    const cublasComputeType_t sums = is_int8 ? CUBLAS_COMPUTE_32I : CUBLAS_COMPUTE_32F;
    const auto m = static_cast<int>(p_.m);
    const auto n = static_cast<int>(p_.n);
    const auto k = static_cast<int>(p_.k);
    const cublasOperation_t b_op = p_.b_transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
    const int b_step = p_.b_transposed ? k : n;
    const cudaDataType_t in = cuda_type(p_.operands);
    const cudaDataType_t out = cuda_type(p_.result);
    if (p_.batch == 1) {
      must(cublasGemmEx(handle, b_op, CUBLAS_OP_N, n, m, k, one, b_.data(), in, b_step, a_.data(),
                        in, k, zero, c_.data(), out, n, sums, CUBLAS_GEMM_DEFAULT),
           "cublasGemmEx");
    } else {
      must(cublasGemmStridedBatchedEx(handle, b_op, CUBLAS_OP_N, n, m, k, one, b_.data(), in,
                                      b_step, p_.n * p_.k, a_.data(), in, k, p_.m * p_.k, zero,
                                      c_.data(), out, n, p_.m * p_.n, static_cast<int>(p_.batch),
                                      sums, CUBLAS_GEMM_DEFAULT),
           "cublasGemmStridedBatchedEx");
    }
  }

 private:
  Product p_;
  std::size_t a_bytes_;
  std::size_t b_bytes_;
  DeviceBuffer a_;
  DeviceBuffer b_;
  DeviceBuffer c_;
};

}  // namespace

std::optional<BareTimes> time_bare(const Product& product, int calls, std::size_t workspace_bytes) {
  CHECK(calls > 0);
  constexpr int kWarmUp = 5;
  const std::int64_t elements = product.m * product.k + product.n * product.k;
  if (!has_room(bytes_of(product, elements, product.operands) +
                bytes_of(product, product.m * product.n, product.result) + workspace_bytes))
    return std::nullopt;
  const Stream stream;
  const Cublas cublas(stream.get(), workspace_bytes);
  const Gemm gemm(product, stream);
  for (int i = 0; i < kWarmUp; ++i) gemm.queue(cublas.get());
  stream.wait();

  BareTimes times;
  std::vector<Event> starts(static_cast<std::size_t>(calls));
  std::vector<Event> ends(static_cast<std::size_t>(calls));
  for (std::size_t i = 0; i < starts.size(); ++i) {
    starts[i].record(stream.get());
    gemm.queue(cublas.get());
    ends[i].record(stream.get());
    stream.wait();  // as an op of the module, which starts on an idle device
  }
  for (std::size_t i = 0; i < starts.size(); ++i)
    times.alone_ns.push_back(ends[i].ns_since(starts[i]));

  starts[0].record(stream.get());
  for (int i = 0; i < calls; ++i) gemm.queue(cublas.get());
  ends[0].record(stream.get());
  stream.wait();
  times.in_a_row_ns = ends[0].ns_since(starts[0]) / calls;
  return times;
}

}  // namespace airlock::bench
