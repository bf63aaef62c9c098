#include "tee_runner/llama/vector_math.h"

#include <algorithm>
#include <cmath>

// Vectors whose width the compiler does not know cannot lie in arrays. CPUs with SVE have NEON too.
#define HWY_DISABLED_TARGETS (HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)
// This file includes itself once for each target.
#define HWY_TARGET_INCLUDE "tee_runner/llama/vector_math.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "tee_runner/llama/vector_lanes.inc"

HWY_BEFORE_NAMESPACE();
namespace airlock::HWY_NAMESPACE {

void exp(const float* in, float* out, std::size_t count) {
  for_each_vector(count, [&](auto d, std::size_t i) HWY_ATTR {
    hn::StoreU(exp_f32(d, hn::LoadU(d, in + i)), d, out + i);
  });
}

/// value(d, i) gives x from element i on, for the sum of squares.
template <typename T>
HWY_INLINE void rms_norm_to(const float* x, const auto& value, const float* weight, float epsilon,
                            T* out, std::size_t count) {
  const std::size_t whole = count / kSumLanes * kSumLanes;
  float squares = sum_lanes(whole, [&](Vector sum, std::size_t i) HWY_ATTR {
    const Vector v = value(kTag, i);
    return hn::MulAdd(v, v, sum);
  });
  for (std::size_t i = whole; i < count; ++i) {
    const float v = hn::GetLane(value(OneTag(), i));
    squares += v * v;
  }
  const float scale = 1.0F / std::sqrt(squares / static_cast<float>(count) + epsilon);
  for_each_vector(count, [&](auto d, std::size_t i) HWY_ATTR {
    const auto scaled = hn::Mul(hn::LoadU(d, x + i), hn::Set(d, scale));
    store_rounded(d, hn::Mul(hn::LoadU(d, weight + i), scaled), out + i);
  });
}

template <typename T>
HWY_INLINE void rms_norm_to(const float* x, const float* weight, float epsilon, T* out,
                            std::size_t count) {
  const auto value = [x](auto d, std::size_t i) HWY_ATTR { return hn::LoadU(d, x + i); };
  rms_norm_to(x, value, weight, epsilon, out, count);
}

void rms_norm(const float* x, const float* weight, float epsilon, float* out, std::size_t count) {
  rms_norm_to(x, weight, epsilon, out, count);
}

void rms_norm_bf16(const float* x, const float* weight, float epsilon, std::uint16_t* out,
                   std::size_t count) {
  rms_norm_to(x, weight, epsilon, out, count);
}

void add_rms_norm_bf16(const std::uint16_t* delta, float* sum, const float* weight, float epsilon,
                       std::uint16_t* out, std::size_t count) {
  const auto value = [&](auto d, std::size_t i) HWY_ATTR {
    const auto v = hn::Add(hn::LoadU(d, sum + i), load_as_f32(d, delta + i));
    hn::StoreU(v, d, sum + i);
    return v;
  };
  rms_norm_to(sum, value, weight, epsilon, out, count);
}

void softmax(float* values, std::size_t count, float scale) {
  const std::size_t padded = round_up(count, kSumLanes);
  std::fill(values + count, values + padded, -kInfinity);
  const float peak = max_of(values, padded) * scale;
  const float sum = sum_lanes(padded, [&](Vector lanes, std::size_t i) HWY_ATTR {
    return hn::Add(lanes, exp_at(values, i, scale, peak));
  });
  multiply_by(values, padded, 1.0F / sum);
}

void silu_multiply(const float* gate, const float* up, float* out, std::size_t count) {
  for_each_vector(count, [&](auto d, std::size_t i) HWY_ATTR {
    const auto x = hn::LoadU(d, gate + i);
    const auto silu = hn::Div(x, hn::Add(hn::Set(d, 1.0F), exp_f32(d, hn::Neg(x))));
    hn::StoreU(hn::Mul(silu, hn::LoadU(d, up + i)), d, out + i);
  });
}

/// silu(x) * up to a relative 1e-5, which bf16 hardly shows. Where a factor is NaN, so is the
/// result, with the pattern of one of them: its low half is 0 where theirs are.
template <typename D, typename V>
HWY_INLINE V coarse_silu_multiply(D d, V x, V up) {
  constexpr float kLn2 = 0.693147182F;
  // exp(-x) is infinity at the lower end and nothing beside 1 at the upper one. NaN may become
  // either: the numerator keeps it.
  const V bounded = hn::Max(hn::Set(d, -128.0F * kLn2), hn::Min(hn::Set(d, 40.0F), x));
  const V shifted = hn::MulAdd(bounded, hn::Set(d, -1.44269504088896341F), hn::Set(d, kRound));
  const V n = hn::Sub(shifted, hn::Set(d, kRound));
  // -x = n ln 2 - r. The polynomial is exp(-r), 1 at 0, to a relative 3.6e-6 for |r| <= ln(2) / 2.
  const V r = hn::MulAdd(n, hn::Set(d, kLn2), bounded);
  V p = hn::Set(d, 4.238052e-2F);
  p = hn::MulAdd(p, r, hn::Set(d, -1.680863e-1F));
  p = hn::MulAdd(p, r, hn::Set(d, 4.9995962e-1F));
  p = hn::MulAdd(p, r, hn::Set(d, -9.9995159e-1F));
  p = hn::MulAdd(p, r, hn::Set(d, 1.0F));
  const V divisor = hn::Add(scale_by_power(d, p, shifted), hn::Set(d, 1.0F));
  return hn::Mul(hn::Div(x, divisor), up);
}

/// The first elements, as many as it says: two vectors at once, those at even and those at odd
/// places, as either half of 32 bits is a bf16.
template <typename D>
HWY_INLINE std::size_t silu_multiply_pairs(D d, const std::uint16_t* gate, const std::uint16_t* up,
                                           std::uint16_t* out, std::size_t count) {
  std::size_t i = 0;
  if constexpr (hn::MaxLanes(D()) > 1) {
    const hn::RebindToUnsigned<D> words;
    const hn::Repartition<std::uint16_t, D> halves;
    const auto load = [=](const std::uint16_t* from)
                          HWY_ATTR { return hn::BitCast(words, hn::LoadU(halves, from)); };
    const auto even = [=](auto pairs) HWY_ATTR { return hn::BitCast(d, hn::ShiftLeft<16>(pairs)); };
    const auto odd = [=](auto pairs) HWY_ATTR {
      return hn::BitCast(d, hn::And(pairs, hn::Set(words, 0xffff0000U)));
    };
    // As store_rounded(), in the high half; NaN, whose low half is 0, stays as it is.
    const auto rounded = [=](auto values) HWY_ATTR {
      const auto bits = hn::BitCast(words, values);
      const auto is_odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(words, 1));
      return hn::Add(bits, hn::Add(is_odd, hn::Set(words, 0x7fff)));
    };
    constexpr std::size_t kStep = 2 * hn::MaxLanes(D());
    for (; i + kStep <= count; i += kStep) {
      const auto gates = load(gate + i);
      const auto ups = load(up + i);
      const auto low = rounded(coarse_silu_multiply(d, even(gates), even(ups)));
      const auto high = rounded(coarse_silu_multiply(d, odd(gates), odd(ups)));
      hn::StoreU(
          hn::OddEven(hn::BitCast(halves, high), hn::BitCast(halves, hn::ShiftRight<16>(low))),
          halves, out + i);
    }
  }
  return i;
}

void silu_multiply_bf16(const std::uint16_t* gate, const std::uint16_t* up, std::uint16_t* out,
                        std::size_t count) {
  const OneTag one;
  for (std::size_t i = silu_multiply_pairs(kTag, gate, up, out, count); i < count; ++i) {
    const auto x = load_as_f32(one, gate + i);
    store_rounded(one, coarse_silu_multiply(one, x, load_as_f32(one, up + i)), out + i);
  }
}

template <typename T>
HWY_INLINE void add_to(const T* delta, float* sum, std::size_t count) {
  for_each_vector(count, [&](auto d, std::size_t i) HWY_ATTR {
    hn::StoreU(hn::Add(hn::LoadU(d, sum + i), load_as_f32(d, delta + i)), d, sum + i);
  });
}

void add(const float* delta, float* sum, std::size_t count) { add_to(delta, sum, count); }

void add_bf16(const std::uint16_t* delta, float* sum, std::size_t count) {
  add_to(delta, sum, count);
}

template <typename T>
HWY_INLINE void rotate_head_to(const T* in, const float* cos, const float* sin, std::size_t half,
                               float* out) {
  for_each_vector(half, [&](auto d, std::size_t i) HWY_ATTR {
    const auto low = load_as_f32(d, in + i);
    const auto high = load_as_f32(d, in + half + i);
    const auto c = hn::LoadU(d, cos + i);
    const auto s = hn::LoadU(d, sin + i);
    hn::StoreU(hn::MulSub(low, c, hn::Mul(high, s)), d, out + i);
    hn::StoreU(hn::MulAdd(high, c, hn::Mul(low, s)), d, out + half + i);
  });
}

void rotate_head(const float* in, const float* cos, const float* sin, std::size_t half,
                 float* out) {
  rotate_head_to(in, cos, sin, half, out);
}

void rotate_head_bf16(const std::uint16_t* in, const float* cos, const float* sin, std::size_t half,
                      float* out) {
  rotate_head_to(in, cos, sin, half, out);
}

const VectorMath& table() {
  static constexpr VectorMath kTable{
      exp,         rms_norm,      rms_norm_bf16,      add_rms_norm_bf16,
      softmax,     silu_multiply, silu_multiply_bf16, add,
      add_bf16,    rotate_head,   rotate_head_bf16,   attend,
      attend_bf16, finish,        finish_bf16};
  return kTable;
}

}  // namespace airlock::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace airlock {

HWY_EXPORT(table);

const VectorMath& vector_math() { return HWY_DYNAMIC_DISPATCH(table)(); }

}  // namespace airlock
#endif
