#pragma once

#include <cstddef>
#include <cstdint>

namespace airlock {

/// Sums run over this many lanes whatever the width of the CPU's vectors, and the lanes are added
/// up in order: the width does not show in the bits.
inline constexpr std::size_t kSumLanes = 16;

constexpr std::size_t round_up(std::size_t value, std::size_t step) {
  return (value + step - 1) / step * step;
}

/// Queries of one head while they walk over its keys with a running softmax, from begin() on. Where
/// all the scores that a query has seen are -infinity, its weights so far are 0.
struct QueryBlock {
  static constexpr std::size_t kRows = 32;       // queries
  static constexpr std::size_t kKeys = 64;       // keys of one step
  static constexpr std::size_t kPitchStep = 32;  // floats
  static constexpr std::size_t kFewRows = 8;     // of which one walk over the keys is enough

  const float* queries;  // [kRows, pitch], rotated
  float* output;         // [kRows, pitch]
  std::size_t head_dim;
  std::size_t pitch;           // head_dim rounded up to kPitchStep
  std::size_t first_position;  // of the first query
  // The others follow it one by one, or are all there (0): several heads' queries of one token.
  std::size_t position_step = 1;
  std::size_t first_row = 0;  // queries [first_row, end_row) are wanted
  std::size_t end_row = kRows;
  // Of few rows: what the next step takes, of the same type, which is fetched meanwhile; or null.
  const void* next_keys = nullptr;
  const void* next_values = nullptr;
  float scale;
  float peak[kRows];  // largest score so far, scaled
  // Sums of the weights so far, a lane each.
  alignas(64) float total[kRows * kSumLanes];
  alignas(64) float scores[kRows * kKeys];

  /// Before the first step, and after end_row is set.
  void begin();
};

/// The arithmetic of the TEE kernels over plain arrays of fp32, of any alignment. Written once with
/// Highway and compiled for several instruction sets. What is called _bf16 reads and writes bf16
/// and has the bits of widening, computing in fp32 and rounding once (base/float_bits.h), in one
/// pass; silu_multiply_bf16 alone computes less precisely.
struct VectorMath {
  /// exp(x) within 2 ulp wherever the result is a normal float; 0 below that, infinity above it,
  /// NaN for NaN.
  void (*exp)(const float* in, float* out, std::size_t count);

  /// out = weight * x / sqrt(mean of x^2 + epsilon).
  void (*rms_norm)(const float* x, const float* weight, float epsilon, float* out,
                   std::size_t count);
  void (*rms_norm_bf16)(const float* x, const float* weight, float epsilon, std::uint16_t* out,
                        std::size_t count);
  /// add_bf16() of `delta` to `sum`, then rms_norm_bf16() of the sum.
  void (*add_rms_norm_bf16)(const std::uint16_t* delta, float* sum, const float* weight,
                            float epsilon, std::uint16_t* out, std::size_t count);

  /// values := softmax(values * scale). There is room for `count` rounded up to kSumLanes; what
  /// lies beyond `count` is overwritten.
  void (*softmax)(float* values, std::size_t count, float scale);

  /// out = silu(gate) * up; `out` may be `gate`. Where exp(-gate) is infinite silu is 0, and NaN
  /// at -infinity. In bf16 the result is within 0.505 units in bf16's last place, where exp(-gate)
  /// is finite and gate and result are at least 3e-36 in size.
  void (*silu_multiply)(const float* gate, const float* up, float* out, std::size_t count);
  void (*silu_multiply_bf16)(const std::uint16_t* gate, const std::uint16_t* up, std::uint16_t* out,
                             std::size_t count);

  /// sum := sum + delta.
  void (*add)(const float* delta, float* sum, std::size_t count);
  void (*add_bf16)(const std::uint16_t* delta, float* sum, std::size_t count);

  /// out = rotate(in) by the angles of one token: one head of 2 * half floats in the rotate_half
  /// layout, where element i pairs with i + half; cos and sin [half]. `out` may be `in`.
  void (*rotate_head)(const float* in, const float* cos, const float* sin, std::size_t half,
                      float* out);
  void (*rotate_head_bf16)(const std::uint16_t* in, const float* cos, const float* sin,
                           std::size_t half, float* out);

  /// One step of a block: takes kKeys keys, the first of them at position `first_key`, into each
  /// query that is not before them. keys [head_dim, kKeys], transposed; values [kKeys, pitch].
  void (*attend)(QueryBlock& block, std::size_t first_key, const float* keys, const float* values);
  /// The same of keys and values in bf16, which are widened as they are read: for few rows.
  void (*attend_bf16)(QueryBlock& block, std::size_t first_key, const std::uint16_t* keys,
                      const std::uint16_t* values);
  /// After the last step: out [head_dim] = a row's output over its weights' sum.
  void (*finish)(const QueryBlock& block, std::size_t row, float* out);
  void (*finish_bf16)(const QueryBlock& block, std::size_t row, std::uint16_t* out);
};

/// For the best instruction set that this CPU has.
const VectorMath& vector_math();

}  // namespace airlock
