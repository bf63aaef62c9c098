#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>

/// Small pieces of the TEE kernels, inlined into functions that AIRLOCK_VECTORIZE compiles for
/// several instruction sets. No intrinsics: GCC's and clang's vector extension, which either lowers
/// to what the target has.
#define AIRLOCK_INLINE inline __attribute__((always_inline))

namespace airlock {

inline constexpr std::size_t kLanes = 16;
/// Sixteen floats in one register (or two, or four). Never a parameter or result: its ABI depends
/// on the target.
using FloatLanes __attribute__((vector_size(64))) = float;

/// exp(x) within 2 ulp wherever the result is a normal float; 0 below that, infinity above it, NaN
/// for NaN. Branch-free, so that loops over it vectorise. Method and coefficients: Cephes expf.
AIRLOCK_INLINE float exp_f32(float x) {
  constexpr float kLowest = -87.3365402F;  // -126 ln 2
  constexpr float kHighest = 88.7228317F;  // the largest x whose exp is finite
  constexpr float kMagic =
      12582912.0F;  // 1.5 * 2^23: adding it rounds to an integer in the low bits
  float clamped = x < kLowest ? kLowest : x;
  clamped = clamped > kHighest ? kHighest : clamped;
  const float shifted = clamped * 1.44269504088896341F + kMagic;
  const float n = shifted - kMagic;
  const float r = (clamped - n * 0.693359375F) - n * -2.12194440e-4F;
  float p = 1.9875691500e-4F;
  p = p * r + 1.3981999507e-3F;
  p = p * r + 8.3334519073e-3F;
  p = p * r + 4.1665795894e-2F;
  p = p * r + 1.6666665459e-1F;
  p = p * r + 5.0000001201e-1F;
  p = p * r * r + r + 1.0F;
  const std::uint32_t exponent =
      (std::bit_cast<std::uint32_t>(shifted) - std::bit_cast<std::uint32_t>(kMagic)) << 23;
  float result = std::bit_cast<float>(std::bit_cast<std::uint32_t>(p) + exponent);
  result = x < kLowest ? 0.0F : result;
  result = x > kHighest ? std::numeric_limits<float>::infinity() : result;
  return x != x ? x : result;
}

/// Sum of the lanes, always in the same order.
AIRLOCK_INLINE float sum_lanes(const FloatLanes& lanes) {
  float sum = 0.0F;
  for (std::size_t lane = 0; lane < kLanes; ++lane) sum += lanes[lane];
  return sum;
}

AIRLOCK_INLINE float max_lanes(const FloatLanes& lanes) {
  float best = lanes[0];
  for (std::size_t lane = 1; lane < kLanes; ++lane) best = lanes[lane] > best ? lanes[lane] : best;
  return best;
}

/// Largest of values[0, count); NaN is passed over. -infinity for count 0.
AIRLOCK_INLINE float max_of(const float* values, std::size_t count) {
  FloatLanes best = {};
  best -= std::numeric_limits<float>::infinity();
  std::size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    FloatLanes block;
    std::memcpy(&block, values + i, sizeof(block));
    best = block > best ? block : best;
  }
  float result = max_lanes(best);
  for (; i < count; ++i) result = values[i] > result ? values[i] : result;
  return result;
}

AIRLOCK_INLINE float sum_of(const float* values, std::size_t count) {
  FloatLanes sum = {};
  std::size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    FloatLanes block;
    std::memcpy(&block, values + i, sizeof(block));
    sum += block;
  }
  float result = sum_lanes(sum);
  for (; i < count; ++i) result += values[i];
  return result;
}

}  // namespace airlock
