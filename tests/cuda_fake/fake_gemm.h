#pragma once

#include <cstddef>
#include <cstdint>

#include "base/dtype.h"

namespace airlock::cuda_fake {

/// A matrix as BLAS sees it: column-major, columns `ld` elements apart.
struct Operand {
  const std::byte* data = nullptr;
  DType dtype = DType::kF32;
  std::int64_t ld = 0;
  bool transposed = false;
};

/// C = alpha * op(A) * op(B) + beta * C. op(A) is m x k, op(B) k x n, C m x n. All three are fp64
/// and accumulated in it; or A and B are int8 (as kU8) and C int32, mod 2^32; or neither:
/// accumulated in fp32, C rounded once. C is not read where beta is 0, nor A and B where alpha or k
/// is 0.
struct Product {
  std::int64_t m = 0;
  std::int64_t n = 0;
  std::int64_t k = 0;
  double alpha = 1;  // a float where sums are fp32, an int32 where they are int32
  double beta = 0;
  Operand a;
  Operand b;
  std::byte* c = nullptr;
  DType c_dtype = DType::kF32;
  std::int64_t ldc = 0;
  bool saturate = false;  // sums of int8, instead of mod 2^32
  bool tf32 = false;      // fp32 operands are rounded to 10 bits of mantissa first
};

void multiply(const Product& product);

}  // namespace airlock::cuda_fake
