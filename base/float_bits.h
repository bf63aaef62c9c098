#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>

/// One number's conversion between fp32 and the 16-bit floats, by its bits: to nearest even, NaN
/// stays NaN, overflow becomes infinity, fp16 subnormals are kept. constexpr and branch-free, so
/// that C++ compilers vectorise loops over them and nvcc takes them in kernels: the same bits
/// everywhere. No arithmetic here may be contracted or flushed to zero.
namespace airlock {

constexpr std::uint16_t bf16_from_f32(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t rounded = (bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16;
  const std::uint32_t nan = (bits >> 16) | 0x40U;
  return static_cast<std::uint16_t>((bits & 0x7fffffffU) > 0x7f800000U ? nan : rounded);
}

constexpr float f32_from_bf16(std::uint16_t bits) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
}

/// Both the normal and the subnormal result are computed, one is picked.
constexpr std::uint16_t f16_from_f32(float value) {
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

constexpr float f32_from_f16(std::uint16_t half) {
  const std::uint32_t sign = (static_cast<std::uint32_t>(half) & 0x8000U) << 16;
  const std::uint32_t shifted = (static_cast<std::uint32_t>(half) & 0x7fffU) << 13;
  const std::uint32_t normal = shifted + 0x38000000U;
  // Infinity and NaN: the exponent becomes 255.
  const std::uint32_t special = shifted + 0x70000000U;
  const float lifted =
      std::bit_cast<float>(shifted + 0x38800000U) - std::bit_cast<float>(0x38800000U);
  std::uint32_t result = shifted < 0x00800000U ? std::bit_cast<std::uint32_t>(lifted) : normal;
  result = shifted >= 0x0f800000U ? special : result;
  return std::bit_cast<float>(sign | result);
}

}  // namespace airlock
