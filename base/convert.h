#pragma once

#include <cstddef>

#include "base/tensor.h"

namespace airlock {

// Conversions round to nearest even; NaN stays NaN, overflow becomes infinity, fp16 subnormals are
// kept. Vectorised; the same bits on every CPU.

/// `count` elements of `dtype` (a float type, CHECKed) at `in`, as fp32.
void load_f32(DType dtype, const std::byte* in, float* out, std::size_t count);
/// `count` fp32 values rounded to `dtype` (a float type, CHECKed) at `out`.
void store_f32(DType dtype, const float* in, std::byte* out, std::size_t count);
/// Between any two float types through fp32; in.desc.elements() == out.desc.elements() (CHECKed).
void convert(TensorView in, MutableTensorView out);

}  // namespace airlock
