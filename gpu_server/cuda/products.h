#pragma once

#include <cstdint>

#include "gpu_server/cuda/device.h"
#include "gpu_server/cuda/int8_weights.h"
#include "gpu_server/cuda/memory.h"
#include "gpu_server/cuda/weights.h"

/// Internal to gpu_server/cuda.
namespace airlock::cuda {

/// Where a product's values go: row-major, of `dtype`: the operands' type, or fp32 where that is
/// narrower.
struct ProductResult {
  std::byte* data = nullptr;
  DType dtype = DType::kF32;
};

/// A cuBLAS handle with a workspace of its own. Products are accumulated in fp32, those of fp64 in
/// fp64, those of int8 in int32, and never reduced in a narrower type; with `tf32` fp32 operands
/// may be rounded to TF32, and no others. Queues and returns. One thread at a time.
class Products {
 public:
  static Result<Products> make(Device& device, bool tf32);
  /// From now on products are queued on `stream`; nothing may be queued on the one before.
  Status use(cudaStream_t stream);

  /// y [rows, w.n] = x [rows, w.k] x W^T; `dtype` is x's and W's, not fp64.
  Status linear(const std::byte* x, std::int64_t rows, const DeviceWeight& w, DType dtype,
                ProductResult y);
  /// y int32 [rows, int8_rounded(w.n)] = x int8 [rows, w.pitch] x W^T, mod 2^32; what lies behind
  /// w.n values of a row means nothing. x and y are aligned to kInt8Multiple.
  Status int8_linear(const std::byte* x, std::int64_t rows, const DeviceInt8Rows& w, std::byte* y);
  /// The matmul op: a [heads, m, k] and b [groups, k, n] of one `dtype`, one of them perhaps
  /// transposed, as `a_shape` and `b_shape` (checked by op_results()) say. No head of b is ever
  /// copied.
  Status matmul(const std::byte* a, const Shape& a_shape, const std::byte* b, const Shape& b_shape,
                Transpose transpose, DType dtype, ProductResult c);

 private:
  explicit Products(Device& device) : device_(&device) {}

  Device* device_;
  DeviceMemory workspace_;  // outlives the handle
  Blas blas_;
};

}  // namespace airlock::cuda
