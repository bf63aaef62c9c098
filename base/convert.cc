#include "base/convert.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "base/vectorize.h"

namespace airlock {

namespace {

inline std::uint16_t bf16_from_f32(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t rounded = (bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16;
  const std::uint32_t nan = (bits >> 16) | 0x40U;
  return static_cast<std::uint16_t>((bits & 0x7fffffffU) > 0x7f800000U ? nan : rounded);
}

// Branch-free so that compilers vectorise it: both the normal and the subnormal result are
// computed, one is picked.
inline std::uint16_t f16_from_f32(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t sign = (bits >> 16) & 0x8000U;
  const std::uint32_t magnitude = bits & 0x7fffffffU;
  // Adding 0.5 lines the subnormal's last bit up with the float's, so that the FPU rounds to
  // nearest even.
  const float aligned = std::bit_cast<float>(std::min(magnitude, 0x38800000U)) + 0.5F;
  const std::uint32_t subnormal =
      std::bit_cast<std::uint32_t>(aligned) - std::bit_cast<std::uint32_t>(0.5F);
  const std::uint32_t normal = (magnitude - 0x38000000U + 0xfffU + ((magnitude >> 13) & 1U)) >> 13;
  std::uint32_t result = magnitude < 0x38800000U ? subnormal : normal;
  result = magnitude >= 0x47800000U ? 0x7c00U : result;
  result = magnitude > 0x7f800000U ? 0x7e00U : result;
  return static_cast<std::uint16_t>(sign | result);
}

inline float f32_from_f16(std::uint16_t half) {
  const std::uint32_t sign = (static_cast<std::uint32_t>(half) & 0x8000U) << 16;
  const std::uint32_t shifted = (static_cast<std::uint32_t>(half) & 0x7fffU) << 13;
  const std::uint32_t normal = shifted + 0x38000000U;
  const std::uint32_t special =
      shifted + 0x70000000U;  // infinity and NaN: the exponent becomes 255
  const float lifted =
      std::bit_cast<float>(shifted + 0x38800000U) - std::bit_cast<float>(0x38800000U);
  std::uint32_t result = shifted < 0x00800000U ? std::bit_cast<std::uint32_t>(lifted) : normal;
  result = shifted >= 0x0f800000U ? special : result;
  return std::bit_cast<float>(sign | result);
}

}  // namespace

AIRLOCK_VECTORIZE void f32_to_bf16(const float* in, std::uint16_t* out, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) out[i] = bf16_from_f32(in[i]);
}

AIRLOCK_VECTORIZE void f32_to_f16(const float* in, std::uint16_t* out, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) out[i] = f16_from_f32(in[i]);
}

AIRLOCK_VECTORIZE void bf16_to_f32(const std::uint16_t* in, float* out, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i)
    out[i] = std::bit_cast<float>(static_cast<std::uint32_t>(in[i]) << 16);
}

AIRLOCK_VECTORIZE void f16_to_f32(const std::uint16_t* in, float* out, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) out[i] = f32_from_f16(in[i]);
}

void load_f32(DType dtype, const std::byte* in, float* out, std::size_t count) {
  CHECK(is_float(dtype));
  if (dtype == DType::kF32) {
    std::memcpy(out, in, count * sizeof(float));
  } else if (dtype == DType::kBF16) {
    bf16_to_f32(reinterpret_cast<const std::uint16_t*>(in), out, count);
  } else {
    f16_to_f32(reinterpret_cast<const std::uint16_t*>(in), out, count);
  }
}

void store_f32(DType dtype, const float* in, std::byte* out, std::size_t count) {
  CHECK(is_float(dtype));
  if (dtype == DType::kF32) {
    std::memcpy(out, in, count * sizeof(float));
  } else if (dtype == DType::kBF16) {
    f32_to_bf16(in, reinterpret_cast<std::uint16_t*>(out), count);
  } else {
    f32_to_f16(in, reinterpret_cast<std::uint16_t*>(out), count);
  }
}

void convert(TensorView in, MutableTensorView out) {
  const std::size_t count = in.desc.elements();
  CHECK(count == out.desc.elements());
  if (in.desc.dtype == out.desc.dtype) {
    std::memcpy(out.data, in.data, in.desc.bytes());
    return;
  }
  constexpr std::size_t kBlock = 1024;
  float block[kBlock];
  for (std::size_t start = 0; start < count; start += kBlock) {
    const std::size_t n = std::min(kBlock, count - start);
    load_f32(in.desc.dtype, in.data + start * dtype_bytes(in.desc.dtype), block, n);
    store_f32(out.desc.dtype, block, out.data + start * dtype_bytes(out.desc.dtype), n);
  }
}

}  // namespace airlock
