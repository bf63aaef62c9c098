#pragma once

#include <cstddef>
#include <cstdint>

#include "base/tensor.h"

namespace airlock {

/// Float conversions, rounding to nearest even; NaN stays NaN, overflow becomes infinity, fp16
/// subnormals are kept. Vectorised; the same bits on every CPU.
void f32_to_bf16(const float* in, std::uint16_t* out, std::size_t count);
void f32_to_f16(const float* in, std::uint16_t* out, std::size_t count);
void bf16_to_f32(const std::uint16_t* in, float* out, std::size_t count);
void f16_to_f32(const std::uint16_t* in, float* out, std::size_t count);

/// `count` elements of `dtype` (a float type, CHECKed) at `in`, as fp32.
void load_f32(DType dtype, const std::byte* in, float* out, std::size_t count);
/// `count` fp32 values rounded to `dtype` (a float type, CHECKed) at `out`.
void store_f32(DType dtype, const float* in, std::byte* out, std::size_t count);
/// Between any two float types through fp32; in.desc.elements() == out.desc.elements() (CHECKed).
void convert(TensorView in, MutableTensorView out);

}  // namespace airlock
