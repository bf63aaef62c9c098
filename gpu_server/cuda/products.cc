#include "gpu_server/cuda/products.h"

#include <fmt/format.h>

#include <limits>

namespace airlock::cuda {

namespace {

constexpr float kOne = 1.0F;
constexpr float kZero = 0.0F;
constexpr double kOneF64 = 1.0;
constexpr double kZeroF64 = 0.0;
constexpr std::int32_t kOneI32 = 1;
constexpr std::int32_t kZeroI32 = 0;

/// What cuBLAS adds up in; its factors are of that type too.
struct Sums {
  cublasComputeType_t type;
  const void* one;
  const void* zero;
};
constexpr Sums kSums{CUBLAS_COMPUTE_32F, &kOne, &kZero};
constexpr Sums kSumsF64{CUBLAS_COMPUTE_64F, &kOneF64, &kZeroF64};
constexpr Sums kSumsI32{CUBLAS_COMPUTE_32I, &kOneI32, &kZeroI32};

cudaDataType_t data_type(DType dtype) {
  if (dtype == DType::kF64) return CUDA_R_64F;
  if (dtype == DType::kF16) return CUDA_R_16F;
  return dtype == DType::kBF16 ? CUDA_R_16BF : CUDA_R_32F;
}

bool fits_int(std::int64_t value) { return value > 0 && value <= std::numeric_limits<int>::max(); }

}  // namespace

Result<Products> Products::make(Device& device, bool tf32) {
  Products made(device);
  ASSIGN_OR_RETURN(made.workspace_, allocate(device, device.workspace_bytes(), "cuBLAS"));
  ASSIGN_OR_RETURN(made.blas_, make_blas(device));
  const int mode = (tf32 ? CUBLAS_TF32_TENSOR_OP_MATH : CUBLAS_DEFAULT_MATH) |
                   CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION;
  RETURN_IF_ERROR(device.check(cublasSetMathMode(made.blas_.get(), static_cast<cublasMath_t>(mode)),
                               "set cuBLAS's precision"));
  return made;
}

Status Products::use(cudaStream_t stream) {
  RETURN_IF_ERROR(device_->check(cublasSetStream(blas_.get(), stream), "set cuBLAS's stream"));
  // After the stream: setting that takes the workspace away.
  return device_->check(
      cublasSetWorkspace(blas_.get(), workspace_.get(), device_->workspace_bytes()),
      "set cuBLAS's workspace");
}

// cuBLAS counts by columns: a row-major matrix is to it the transposed one. So y^T = W x^T, with
// W's rows as columns (transposed back) and x's rows as columns.
Status Products::linear(const std::byte* x, std::int64_t rows, const DeviceWeight& w, DType dtype,
                        ProductResult y) {
  if (!fits_int(rows) || !fits_int(w.n) || !fits_int(w.k))
    return {StatusCode::kInvalidInput, "{} rows are too many", rows};
  const int n = static_cast<int>(w.n);
  const int m = static_cast<int>(rows);
  const int k = static_cast<int>(w.k);
  const cublasStatus_t status =
      cublasGemmEx(blas_.get(), CUBLAS_OP_T, CUBLAS_OP_N, n, m, k, kSums.one, w.data,
                   data_type(dtype), k, x, data_type(dtype), k, kSums.zero, y.data,
                   data_type(y.dtype), n, kSums.type, CUBLAS_GEMM_DEFAULT);
  if (status == CUBLAS_STATUS_SUCCESS) return {};  // no text is made for what went well
  return device_->check(status, fmt::format("multiply [{}, {}] by [{}, {}]", m, k, k, n));
}

// As linear(). int32 sums of many columns wrap, which mod 2^32 is right: digits of words are put
// together mod 2^32. No documentation says that they wrap, so check_int_linear() looks.
Status Products::int8_linear(const std::byte* x, std::int64_t rows, const DeviceInt8Rows& w,
                             std::byte* y) {
  const std::int64_t outputs = int8_rounded(w.n);
  if (!fits_int(rows) || !fits_int(outputs) || !fits_int(w.pitch))
    return {StatusCode::kInvalidInput, "{} rows are too many", rows};
  const int n = static_cast<int>(outputs);
  const int m = static_cast<int>(rows);
  const int k = static_cast<int>(w.pitch);
  const cublasStatus_t status = cublasGemmEx(
      blas_.get(), CUBLAS_OP_T, CUBLAS_OP_N, n, m, k, kSumsI32.one, w.data, CUDA_R_8I, k, x,
      CUDA_R_8I, k, kSumsI32.zero, y, CUDA_R_32I, n, kSumsI32.type, CUBLAS_GEMM_DEFAULT);
  if (status == CUBLAS_STATUS_SUCCESS) return {};
  return device_->check(status, fmt::format("multiply int8 [{}, {}] by [{}, {}]", m, k, k, n));
}

Status Products::matmul(const std::byte* a, const Shape& a_shape, const std::byte* b,
                        const Shape& b_shape, Transpose transpose, DType dtype, ProductResult c) {
  const std::int64_t heads = a_shape[0];
  const std::int64_t groups = b_shape[0];
  std::int64_t m = a_shape[transpose == Transpose::kA ? 2 : 1];
  const std::int64_t k = a_shape[transpose == Transpose::kA ? 1 : 2];
  const std::int64_t n = b_shape[transpose == Transpose::kB ? 1 : 2];
  std::int64_t per_call = groups;  // products in one call
  std::int64_t calls = 1;          // one a group where its heads share a b that cannot be stacked
  std::int64_t b_stride = k * n;   // 0: every product meets the same b
  if (transpose != Transpose::kA) {
    m *= heads / groups;  // a group's heads lie one behind the other: rows of one matrix
  } else if (heads != groups) {
    per_call = heads / groups;
    calls = groups;
    b_stride = 0;
  }
  if (!fits_int(m) || !fits_int(n) || !fits_int(k) || !fits_int(per_call))
    return {StatusCode::kInvalidInput, "{} x {} is too large", a_shape.to_string(),
            b_shape.to_string()};
  const Sums& sums = dtype == DType::kF64 ? kSumsF64 : kSums;
  const auto type = data_type(dtype);
  const auto element = static_cast<std::int64_t>(dtype_bytes(dtype));
  const auto result_element = static_cast<std::int64_t>(dtype_bytes(c.dtype));
  const auto op_b = transpose == Transpose::kB ? CUBLAS_OP_T : CUBLAS_OP_N;
  const auto op_a = transpose == Transpose::kA ? CUBLAS_OP_T : CUBLAS_OP_N;
  const int ld_b = static_cast<int>(transpose == Transpose::kB ? k : n);
  const int ld_a = static_cast<int>(transpose == Transpose::kA ? m : k);
  for (std::int64_t call = 0; call < calls; ++call) {
    const cublasStatus_t status = cublasGemmStridedBatchedEx(
        blas_.get(), op_b, op_a, static_cast<int>(n), static_cast<int>(m), static_cast<int>(k),
        sums.one, b + call * k * n * element, type, ld_b, b_stride,
        a + call * per_call * m * k * element, type, ld_a, m * k, sums.zero,
        c.data + call * per_call * m * n * result_element, data_type(c.dtype), static_cast<int>(n),
        m * n, static_cast<int>(per_call), sums.type, CUBLAS_GEMM_DEFAULT);
    if (status == CUBLAS_STATUS_SUCCESS) continue;
    return device_->check(
        status, fmt::format("multiply {} by {}", a_shape.to_string(), b_shape.to_string()));
  }
  return {};
}

}  // namespace airlock::cuda
