#include <algorithm>
#include <limits>

#include "tee_runner/llama/vector_math.h"

// Vectors whose width the compiler does not know cannot lie in arrays. CPUs with SVE have NEON too.
#define HWY_DISABLED_TARGETS (HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)
// This file includes itself once for each target.
#define HWY_TARGET_INCLUDE "tee_runner/llama/vector_attention.cc"
#include <hwy/cache_control.h>
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "tee_runner/llama/vector_lanes.inc"

HWY_BEFORE_NAMESPACE();
namespace airlock::HWY_NAMESPACE {

// A tile of sums fills half of 32 registers, with AVX-512 and on AArch64, or three quarters of 16,
// beside three of b and a factor. Each element of a product sums in the same order whatever the
// tile.
constexpr bool kHasManyRegisters = HWY_TARGET <= HWY_AVX3 || HWY_ARCH_ARM_A64;
constexpr std::size_t kTileVectors = kHasManyRegisters ? 16 : 12;
constexpr std::size_t kTileRows = kHasManyRegisters ? 8 : 4;
// Columns of the smallest tile: it has two vectors in a row.
constexpr std::size_t kLeastColumns = 2 * kWidth;
// For as many rows, one key-value head's of a token, a tile is wider: no row is computed in vain,
// and a line of b is read from end to end.
constexpr std::size_t kNarrowRows = 4;
static_assert(QueryBlock::kRows % kTileRows == 0 && QueryBlock::kPitchStep % kLeastColumns == 0);
// Of scores as many are computed as are weighed.
constexpr std::size_t kColumnStep = std::max(kLeastColumns, kSumLanes);
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
  std::size_t columns;  // a multiple of kLeastColumns
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
  static_assert(kVectors % 2 == 0 || kVectors == 3);
  std::size_t column = 0;
  while (column + kVectors * kWidth <= part.columns) {
    // Of four vectors three would leave one alone.
    if (kVectors == 3 && column + 4 * kWidth == part.columns) break;
    multiply_tile<adds, rows, kVectors, fetches>(a, a_pitch, right, part.depth, column, c + column);
    column += kVectors * kWidth;
  }
  if constexpr (kVectors > 2) {
    for (; column < part.columns; column += kLeastColumns)
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
  const float correction =
      hn::GetLane(exp_of_difference(OneTag(), hn::Set(OneTag(), peak - in_block)));
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
        return Part{block.head_dim, round_up(visible_keys(block, first_key, last), kColumnStep)};
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

/// The row's output over the sum of its weights.
template <typename T>
HWY_INLINE void finish_to(const QueryBlock& block, std::size_t row, T* out) {
  const float* const lanes = block.total + row * kSumLanes;
  float sum = 0.0F;
  for (std::size_t lane = 0; lane < kSumLanes; ++lane) sum += lanes[lane];
  const float factor = 1.0F / sum;
  const float* const values = block.output + row * block.pitch;
  for_each_vector(block.head_dim, [&](auto d, std::size_t i) HWY_ATTR {
    store_rounded(d, hn::Mul(hn::LoadU(d, values + i), hn::Set(d, factor)), out + i);
  });
}

void finish(const QueryBlock& block, std::size_t row, float* out) { finish_to(block, row, out); }

void finish_bf16(const QueryBlock& block, std::size_t row, std::uint16_t* out) {
  finish_to(block, row, out);
}

}  // namespace airlock::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace airlock {

void QueryBlock::begin() {
  const std::size_t rows = round_up(end_row, kFewRows);
  std::fill_n(output, rows * pitch, 0.0F);
  std::fill_n(peak, rows, -std::numeric_limits<float>::infinity());
  std::fill_n(total, rows * kSumLanes, 0.0F);
}

}  // namespace airlock
#endif
