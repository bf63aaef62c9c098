#include "tee_runner/llama/vector_math.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

// Vectors whose width the compiler does not know cannot lie in arrays. CPUs with SVE have NEON too.
#define HWY_DISABLED_TARGETS (HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)
// This file includes itself once for each target.
#define HWY_TARGET_INCLUDE "tee_runner/llama/vector_math.cc"
#include <hwy/cache_control.h>
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace airlock::HWY_NAMESPACE {

// Compiled with -ffp-contract=off: a product and a sum are one rounding exactly where it says
// MulAdd and the target has it, so that targets with FMA agree in every bit.

namespace hn = hwy::HWY_NAMESPACE;

using Tag = hn::CappedTag<float, kSumLanes>;
using OneTag = hn::CappedTag<float, 1>;
using Vector = hn::Vec<Tag>;

constexpr Tag kTag;
constexpr std::size_t kWidth = hn::MaxLanes(kTag);
constexpr std::size_t kParts = kSumLanes / kWidth;  // vectors that make up the lanes of a sum
constexpr float kInfinity = std::numeric_limits<float>::infinity();

/// body(tag, i) for each whole vector of [0, count), then for each float that is left over.
template <typename Body>
HWY_INLINE void for_each_vector(std::size_t count, const Body& body) {
  std::size_t i = 0;
  for (; i + kWidth <= count; i += kWidth) body(kTag, i);
  for (; i < count; ++i) body(OneTag(), i);
}

template <typename D>
HWY_INLINE hn::Vec<D> load_as_f32(D d, const float* from) {
  return hn::LoadU(d, from);
}
/// bf16, widened.
template <typename D>
HWY_INLINE hn::Vec<D> load_as_f32(D d, const std::uint16_t* from) {
  const hn::RebindToUnsigned<D> bits;
  const auto halves = hn::LoadU(hn::Rebind<std::uint16_t, D>(), from);
  return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(bits, halves)));
}

template <typename D>
HWY_INLINE void store_rounded(D d, hn::Vec<D> values, float* to) {
  hn::StoreU(values, d, to);
}
/// bf16, as bf16_from_f32() of base/float_bits.h.
template <typename D>
HWY_INLINE void store_rounded(D, hn::Vec<D> values, std::uint16_t* to) {
  const hn::RebindToUnsigned<D> u;
  const hn::Rebind<std::uint16_t, D> halves;
  const auto bits = hn::BitCast(u, values);
  const auto high = hn::ShiftRight<16>(bits);
  const auto odd = hn::And(high, hn::Set(u, 1));
  const auto rounded = hn::ShiftRight<16>(hn::Add(bits, hn::Add(odd, hn::Set(u, 0x7fff))));
  const auto is_nan = hn::RebindMask(u, hn::IsNaN(values));
  const auto result = hn::IfThenElse(is_nan, hn::Or(high, hn::Set(u, 0x40)), rounded);
  hn::StoreU(hn::TruncateTo(halves, result), halves, to);
}

/// Branch-free: computes something for every x, then overwrites it outside the range. Method and
/// coefficients: Cephes expf.
template <typename D, typename V>
HWY_INLINE V exp_f32(D d, V x) {
  constexpr float kLowest = -87.3365402F;  // -126 ln 2
  constexpr float kHighest = 88.7228317F;  // the largest x whose exp is finite
  const hn::RebindToUnsigned<D> bits;
  // Adding 1.5 * 2^23 rounds to an integer in the low bits.
  const V magic = hn::Set(d, 12582912.0F);
  const V shifted = hn::MulAdd(x, hn::Set(d, 1.44269504088896341F), magic);
  const V n = hn::Sub(shifted, magic);
  const V near = hn::NegMulAdd(n, hn::Set(d, 0.693359375F), x);
  const V r = hn::NegMulAdd(n, hn::Set(d, -2.12194440e-4F), near);
  V p = hn::Set(d, 1.9875691500e-4F);
  p = hn::MulAdd(p, r, hn::Set(d, 1.3981999507e-3F));
  p = hn::MulAdd(p, r, hn::Set(d, 8.3334519073e-3F));
  p = hn::MulAdd(p, r, hn::Set(d, 4.1665795894e-2F));
  p = hn::MulAdd(p, r, hn::Set(d, 1.6666665459e-1F));
  p = hn::MulAdd(p, r, hn::Set(d, 5.0000001201e-1F));
  p = hn::Add(hn::MulAdd(hn::Mul(p, r), r, r), hn::Set(d, 1.0F));
  const auto exponent =
      hn::ShiftLeft<23>(hn::Sub(hn::BitCast(bits, shifted), hn::BitCast(bits, magic)));
  V result = hn::BitCast(d, hn::Add(hn::BitCast(bits, p), exponent));
  result = hn::IfThenZeroElse(hn::Lt(x, hn::Set(d, kLowest)), result);
  result = hn::IfThenElse(hn::Gt(x, hn::Set(d, kHighest)), hn::Set(d, kInfinity), result);
  return hn::IfThenElse(hn::IsNaN(x), x, result);
}

/// sum = add_to(sum, i) for each whole vector of [0, count), a multiple of kSumLanes, in as many
/// partial sums as there are lanes.
template <typename AddTo>
HWY_INLINE float sum_lanes(std::size_t count, const AddTo& add_to) {
  Vector sums[kParts];
  for (Vector& sum : sums) sum = hn::Zero(kTag);
  for (std::size_t i = 0; i < count; i += kSumLanes) {
    for (std::size_t part = 0; part < kParts; ++part)
      sums[part] = add_to(sums[part], i + part * kWidth);
  }
  alignas(64) float lanes[kSumLanes];
  for (std::size_t part = 0; part < kParts; ++part)
    hn::Store(sums[part], kTag, lanes + part * kWidth);
  float sum = 0.0F;
  for (const float lane : lanes) sum += lane;
  return sum;
}

/// Largest of values[0, count); NaN is passed over. count is a multiple of kSumLanes.
HWY_INLINE float max_of(const float* values, std::size_t count) {
  const Vector lowest = hn::Set(kTag, -kInfinity);
  Vector best = lowest;
  for (std::size_t i = 0; i < count; i += kWidth) {
    const Vector v = hn::LoadU(kTag, values + i);
    best = hn::Max(best, hn::IfThenElse(hn::IsNaN(v), lowest, v));
  }
  return hn::GetLane(hn::MaxOfLanes(kTag, best));
}

/// values := exp(values * scale - shift), as sum_lanes() takes them. The product is rounded before
/// shift is taken off: of the largest value 0 is left, however large.
HWY_INLINE Vector exp_at(float* values, std::size_t i, float scale, float shift) {
  const Vector scaled = hn::Mul(hn::LoadU(kTag, values + i), hn::Set(kTag, scale));
  const Vector weights = exp_f32(kTag, hn::Sub(scaled, hn::Set(kTag, shift)));
  hn::StoreU(weights, kTag, values + i);
  return weights;
}

/// values := values * factor. count is a multiple of kSumLanes.
HWY_INLINE void multiply_by(float* values, std::size_t count, float factor) {
  for (std::size_t i = 0; i < count; i += kWidth)
    hn::StoreU(hn::Mul(hn::LoadU(kTag, values + i), hn::Set(kTag, factor)), kTag, values + i);
}

void exp(const float* in, float* out, std::size_t count) {
  for_each_vector(count, [&](auto d, std::size_t i) HWY_ATTR {
    hn::StoreU(exp_f32(d, hn::LoadU(d, in + i)), d, out + i);
  });
}

template <typename T>
HWY_INLINE void rms_norm_to(const float* x, const float* weight, float epsilon, T* out,
                            std::size_t count) {
  const std::size_t whole = count / kSumLanes * kSumLanes;
  float squares = sum_lanes(whole, [&](Vector sum, std::size_t i) HWY_ATTR {
    const Vector v = hn::LoadU(kTag, x + i);
    return hn::MulAdd(v, v, sum);
  });
  for (std::size_t i = whole; i < count; ++i) squares += x[i] * x[i];
  const float scale = 1.0F / std::sqrt(squares / static_cast<float>(count) + epsilon);
  for_each_vector(count, [&](auto d, std::size_t i) HWY_ATTR {
    const auto scaled = hn::Mul(hn::LoadU(d, x + i), hn::Set(d, scale));
    store_rounded(d, hn::Mul(hn::LoadU(d, weight + i), scaled), out + i);
  });
}

void rms_norm(const float* x, const float* weight, float epsilon, float* out, std::size_t count) {
  rms_norm_to(x, weight, epsilon, out, count);
}

void rms_norm_bf16(const float* x, const float* weight, float epsilon, std::uint16_t* out,
                   std::size_t count) {
  rms_norm_to(x, weight, epsilon, out, count);
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

template <typename T>
HWY_INLINE void silu_multiply_to(const T* gate, const T* up, T* out, std::size_t count) {
  for_each_vector(count, [&](auto d, std::size_t i) HWY_ATTR {
    const auto x = load_as_f32(d, gate + i);
    const auto silu = hn::Div(x, hn::Add(hn::Set(d, 1.0F), exp_f32(d, hn::Neg(x))));
    store_rounded(d, hn::Mul(silu, load_as_f32(d, up + i)), out + i);
  });
}

void silu_multiply(const float* gate, const float* up, float* out, std::size_t count) {
  silu_multiply_to(gate, up, out, count);
}

void silu_multiply_bf16(const std::uint16_t* gate, const std::uint16_t* up, std::uint16_t* out,
                        std::size_t count) {
  silu_multiply_to(gate, up, out, count);
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

void rotate_head(const float* in, const float* cos, const float* sin, std::size_t half,
                 float* out) {
  for_each_vector(half, [&](auto d, std::size_t i) HWY_ATTR {
    const auto low = hn::LoadU(d, in + i);
    const auto high = hn::LoadU(d, in + half + i);
    const auto c = hn::LoadU(d, cos + i);
    const auto s = hn::LoadU(d, sin + i);
    hn::StoreU(hn::MulSub(low, c, hn::Mul(high, s)), d, out + i);
    hn::StoreU(hn::MulAdd(high, c, hn::Mul(low, s)), d, out + half + i);
  });
}

// A tile of sums fills half of the registers: 32 with AVX-512 and on AArch64, else 16. Each element
// of a product sums in the same order whatever the tile.
constexpr std::size_t kTileVectors = HWY_TARGET <= HWY_AVX3 || HWY_ARCH_ARM_A64 ? 16 : 8;
constexpr std::size_t kTileRows = kTileVectors / 2;
// For as many rows, one key-value head's of a token, a tile is wider: no row is computed in vain,
// and a line of b is read from end to end.
constexpr std::size_t kNarrowRows = 4;
static_assert(QueryBlock::kRows % kTileRows == 0 && QueryBlock::kPitchStep % (2 * kWidth) == 0);
static_assert(kTileRows <= QueryBlock::kFewRows && kTileRows % kNarrowRows == 0);

/// What a product has beside its tiles: b [depth, pitch], and what is fetched meanwhile, of b's
/// shape, or null.
template <typename T>
struct Right {
  const T* b;
  const T* next;
  std::size_t pitch;
};

/// The part of b that a tile's rows take: the rest is of keys that none of them sees.
struct Part {
  std::size_t depth;
  std::size_t columns;  // a multiple of QueryBlock::kPitchStep
};

/// As multiply(), for the `rows` rows of a and the vectors * kWidth columns of b that start there.
template <bool adds, std::size_t rows, std::size_t vectors, bool fetches, typename T>
HWY_INLINE void multiply_tile(const float* a, std::size_t a_pitch, const Right<T>& right,
                              std::size_t depth, std::size_t column, float* c) {
  constexpr std::size_t kLine = 64 / sizeof(T);
  Vector sums[rows][vectors];
  for (std::size_t row = 0; row < rows; ++row) {
    for (std::size_t v = 0; v < vectors; ++v) {
      sums[row][v] = adds ? hn::LoadU(kTag, c + row * right.pitch + v * kWidth) : hn::Zero(kTag);
    }
  }
  for (std::size_t i = 0; i < depth; ++i) {
    const std::size_t at = i * right.pitch + column;
    if constexpr (fetches) {
      for (std::size_t line = 0; line < vectors * kWidth; line += kLine)
        hwy::Prefetch(right.next + at + line);
    }
    Vector line[vectors];
    for (std::size_t v = 0; v < vectors; ++v)
      line[v] = load_as_f32(kTag, right.b + at + v * kWidth);
    for (std::size_t row = 0; row < rows; ++row) {
      const Vector factor = hn::Set(kTag, a[row * a_pitch + i]);
      for (std::size_t v = 0; v < vectors; ++v)
        sums[row][v] = hn::MulAdd(line[v], factor, sums[row][v]);
    }
  }
  for (std::size_t row = 0; row < rows; ++row) {
    for (std::size_t v = 0; v < vectors; ++v)
      hn::StoreU(sums[row][v], kTag, c + row * right.pitch + v * kWidth);
  }
}

/// The tiles of `rows` rows, the widest first.
template <bool adds, std::size_t rows, bool fetches, typename T>
HWY_INLINE void multiply_rows(const float* a, std::size_t a_pitch, const Right<T>& right,
                              const Part& part, float* c) {
  constexpr std::size_t kVectors = kTileVectors / rows;
  std::size_t column = 0;
  for (; column + kVectors * kWidth <= part.columns; column += kVectors * kWidth) {
    multiply_tile<adds, rows, kVectors, fetches>(a, a_pitch, right, part.depth, column, c + column);
  }
  if constexpr (kVectors > 2) {
    for (; column < part.columns; column += 2 * kWidth)
      multiply_tile<adds, rows, 2, fetches>(a, a_pitch, right, part.depth, column, c + column);
  }
}

/// Rows [first, end) of a block that its products take: those that are wanted and some beside them.
struct TiledRows {
  std::size_t first;
  std::size_t end;
  bool narrow;  // all in one tile of kNarrowRows
};
HWY_INLINE TiledRows tiled_rows(const QueryBlock& block) {
  const std::size_t narrow = block.first_row / kNarrowRows * kNarrowRows;
  if (block.end_row <= narrow + kNarrowRows) return {narrow, narrow + kNarrowRows, true};
  return {block.first_row / kTileRows * kTileRows, round_up(block.end_row, kTileRows), false};
}

/// Of the step's keys those that a row sees, a row of the block or one behind it.
HWY_INLINE std::size_t visible_keys(const QueryBlock& block, std::size_t first_key,
                                    std::size_t row) {
  const std::size_t end =
      block.first_position + std::min(row, block.end_row - 1) * block.position_step + 1;
  return end > first_key ? std::min(end - first_key, QueryBlock::kKeys) : 0;
}

/// c [QueryBlock::kRows, pitch] = a [QueryBlock::kRows, depth] * b [depth, columns], or += where it
/// adds, in the rows of the tiles; part(last row of a tile) says how much of b that tile takes. The
/// rows of a lie `a_pitch` floats apart. What comes next is fetched by the first tiles alone.
template <bool adds, typename T>
HWY_INLINE void multiply(const TiledRows& rows, const float* a, std::size_t a_pitch,
                         const Right<T>& right, const auto& part, float* c) {
  const float* const first_a = a + rows.first * a_pitch;
  float* const first_c = c + rows.first * right.pitch;
  if (rows.narrow) {
    const Part taken = part(rows.end - 1);
    if (right.next == nullptr)
      return multiply_rows<adds, kNarrowRows, false>(first_a, a_pitch, right, taken, first_c);
    return multiply_rows<adds, kNarrowRows, true>(first_a, a_pitch, right, taken, first_c);
  }
  std::size_t row = rows.first;
  if (right.next != nullptr) {
    multiply_rows<adds, kTileRows, true>(first_a, a_pitch, right, part(row + kTileRows - 1),
                                         first_c);
    row += kTileRows;
  }
  for (; row < rows.end; row += kTileRows) {
    multiply_rows<adds, kTileRows, false>(a + row * a_pitch, a_pitch, right,
                                          part(row + kTileRows - 1), c + row * right.pitch);
  }
}

/// Brings the row to a new peak, where the step's scores have one: rescales output and total.
HWY_INLINE void raise_peak(QueryBlock& block, std::size_t row, float in_block) {
  float& peak = block.peak[row];
  // What stays would be rescaled by exp(0), which is 1.
  if (!(in_block > peak)) return;
  const float correction = hn::GetLane(exp_f32(OneTag(), hn::Set(OneTag(), peak - in_block)));
  peak = in_block;
  multiply_by(block.total + row * kSumLanes, kSumLanes, correction);
  multiply_by(block.output + row * block.pitch, block.pitch, correction);
}

/// Makes weights of the scores, of as many of a row as the rows of its tile take; brings output and
/// total to the new peak.
HWY_INLINE void weigh_scores(QueryBlock& block, std::size_t first_key, std::size_t tile_rows) {
  float shifts[QueryBlock::kRows];
  std::size_t taken[QueryBlock::kRows];
  for (std::size_t row = block.first_row; row < block.end_row; ++row) {
    float* scores = block.scores + row * QueryBlock::kKeys;
    const std::size_t last = row / tile_rows * tile_rows + tile_rows - 1;
    taken[row] = round_up(visible_keys(block, first_key, last), kSumLanes);
    for (std::size_t i = visible_keys(block, first_key, row); i < taken[row]; ++i)
      scores[i] = -kInfinity;
    raise_peak(block, row, max_of(scores, taken[row]) * block.scale);
    // exp(-infinity - 0) is 0, exp(-infinity + infinity) would be NaN.
    shifts[row] = block.peak[row] == -kInfinity ? 0.0F : block.peak[row];
  }
  // Apart from the rows' peaks, for which each waits.
  for (std::size_t row = block.first_row; row < block.end_row; ++row) {
    float* scores = block.scores + row * QueryBlock::kKeys;
    float* total = block.total + row * kSumLanes;
    Vector sums[kParts];
    for (std::size_t part = 0; part < kParts; ++part)
      sums[part] = hn::LoadU(kTag, total + part * kWidth);
    for (std::size_t i = 0; i < taken[row]; i += kSumLanes) {
      for (std::size_t part = 0; part < kParts; ++part) {
        sums[part] =
            hn::Add(sums[part], exp_at(scores, i + part * kWidth, block.scale, shifts[row]));
      }
    }
    for (std::size_t part = 0; part < kParts; ++part)
      hn::StoreU(sums[part], kTag, total + part * kWidth);
  }
}

template <typename T>
HWY_INLINE void attend_to(QueryBlock& block, std::size_t first_key, const T* keys,
                          const T* values) {
  const TiledRows rows = tiled_rows(block);
  multiply<false>(
      rows, block.queries, block.pitch,
      Right<T>{keys, static_cast<const T*>(block.next_keys), QueryBlock::kKeys},
      [&](std::size_t last) {
        return Part{block.head_dim,
                    round_up(visible_keys(block, first_key, last), QueryBlock::kPitchStep)};
      },
      block.scores);
  weigh_scores(block, first_key, rows.narrow ? kNarrowRows : kTileRows);
  multiply<true>(
      rows, block.scores, QueryBlock::kKeys,
      Right<T>{values, static_cast<const T*>(block.next_values), block.pitch},
      [&](std::size_t last) {
        return Part{visible_keys(block, first_key, last), block.pitch};
      },
      block.output);
}

void attend(QueryBlock& block, std::size_t first_key, const float* keys, const float* values) {
  attend_to(block, first_key, keys, values);
}

void attend_bf16(QueryBlock& block, std::size_t first_key, const std::uint16_t* keys,
                 const std::uint16_t* values) {
  attend_to(block, first_key, keys, values);
}

const VectorMath& table() {
  static constexpr VectorMath kTable{
      exp, rms_norm, rms_norm_bf16, softmax, silu_multiply, silu_multiply_bf16,
      add, add_bf16, rotate_head,   attend,  attend_bf16};
  return kTable;
}

}  // namespace airlock::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace airlock {

HWY_EXPORT(table);

void QueryBlock::begin() {
  const std::size_t rows = round_up(end_row, kFewRows);
  std::fill_n(output, rows * pitch, 0.0F);
  std::fill_n(peak, rows, -std::numeric_limits<float>::infinity());
  std::fill_n(total, rows * kSumLanes, 0.0F);
}

void QueryBlock::finish(std::size_t row) {
  const float* const lanes = total + row * kSumLanes;
  const float sum = std::accumulate(lanes, lanes + kSumLanes, 0.0F);
  for (std::size_t i = 0; i < head_dim; ++i) output[row * pitch + i] /= sum;
}

const VectorMath& vector_math() { return HWY_DYNAMIC_DISPATCH(table)(); }

}  // namespace airlock
#endif
