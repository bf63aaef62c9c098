#include "runtime/cpu/few_rows.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace airlock::few_rows {

namespace {
constexpr std::int64_t kPaddedWords = 16;
}  // namespace

Layout Layout::of(DType held, std::int64_t k) {
  const std::int64_t words = k * static_cast<std::int64_t>(dtype_bytes(held)) / 4;
  const std::int64_t padded = (words + kPaddedWords - 1) / kPaddedWords * kPaddedWords;
  return {words, static_cast<std::size_t>(padded) * kWordsBytes};
}

void copy_column(const Layout& layout, const std::byte* data, std::int64_t column, std::byte* to) {
  const std::byte* from = data +
                          static_cast<std::size_t>(column / kBlockColumns) * layout.block_bytes +
                          static_cast<std::size_t>(column % kBlockColumns) * sizeof(std::uint32_t);
  for (std::int64_t word = 0; word < layout.words; ++word) {
    std::memcpy(to, from, sizeof(std::uint32_t));
    to += sizeof(std::uint32_t);
    from += kWordsBytes;
  }
}

#if defined(__x86_64__)

#define AIRLOCK_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512bf16")))

namespace {

constexpr int kVectors = 4;  // of a block's columns
// Rows whose sums lie in registers: 24 of 32, beside four of the weight and one of x.
constexpr int kRowsAtOnce = 6;
// With more rows than these the weight is read again for each group of them, from the nearest
// caches, while what comes next is on its way there: 16 KiB each, or with many groups, which take
// their time, 32.
constexpr std::int64_t kCachedWords = 64;
constexpr std::int64_t kCachedWordsOfMany = 128;
constexpr std::int64_t kFewGroups = 3;
// With one group. Up to two rows the CPU itself fetches early enough.
constexpr std::int64_t kAheadBytes = 4096;
constexpr std::int64_t kLineBytes = 64;
constexpr std::int64_t kUnfetchedRows = 2;

/// Words that follow each other, of several rows of x.
struct Left {
  const std::byte* data;
  std::size_t row_bytes;
};

/// What happens to the sums of a part of a chunk.
struct Part {
  std::int64_t words;
  bool begins_chunk;
  bool ends_chunk;
  bool is_first_chunk;
  // What to fetch meanwhile.
  const std::byte* next;
};

template <DType kHeld>
AIRLOCK_AVX512 inline __m512 multiply_add(__m512 sum, __m512i x, __m512i weight) {
  if constexpr (kHeld == DType::kBF16) {
    return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(x), reinterpret_cast<__m512bh>(weight));
  } else {
    return _mm512_fmadd_ps(_mm512_castsi512_ps(x), _mm512_castsi512_ps(weight), sum);
  }
}

/// Fetches kLines lines for each word. `chunk` [kRows, kBlockColumns]: sums of the chunk that is
/// under way; `sums`: of those before.
template <DType kHeld, int kRows, int kLines>
AIRLOCK_AVX512 void multiply_part(const Part& part, Left x, const std::byte* weight, float* chunk,
                                  float* sums) {
  __m512 acc[kRows][kVectors];
  for (int row = 0; row < kRows; ++row) {
    for (int v = 0; v < kVectors; ++v) {
      acc[row][v] = part.begins_chunk ? _mm512_setzero_ps()
                                      : _mm512_loadu_ps(chunk + row * kBlockColumns + v * 16);
    }
  }
  const std::byte* next = part.next;
  for (std::int64_t word = 0; word < part.words; ++word) {
    __m512i w[kVectors];
    for (int v = 0; v < kVectors; ++v) w[v] = _mm512_loadu_si512(weight + v * kLineBytes);
    for (int line = 0; line < kLines; ++line) {
      _mm_prefetch(next + line * kLineBytes, _MM_HINT_T0);
    }
    next += kLines * kLineBytes;
    for (int row = 0; row < kRows; ++row) {
      std::int32_t value;
      std::memcpy(&value, x.data + static_cast<std::size_t>(row) * x.row_bytes, sizeof value);
      const __m512i values = _mm512_set1_epi32(value);
      for (int v = 0; v < kVectors; ++v) {
        acc[row][v] = multiply_add<kHeld>(acc[row][v], values, w[v]);
      }
    }
    weight += kWordsBytes;
    x.data += sizeof(std::int32_t);
  }
  float* to = part.ends_chunk ? sums : chunk;
  for (int row = 0; row < kRows; ++row) {
    for (int v = 0; v < kVectors; ++v) {
      const std::int64_t at = row * kBlockColumns + v * 16;
      if (part.ends_chunk && !part.is_first_chunk) {
        acc[row][v] = _mm512_add_ps(_mm512_loadu_ps(sums + at), acc[row][v]);
      }
      _mm512_storeu_ps(to + at, acc[row][v]);
    }
  }
}

using MultiplyPart = void (*)(const Part&, Left, const std::byte*, float*, float*);

template <DType kHeld, int kLines>
constexpr MultiplyPart kMultiplyPart[kRowsAtOnce] = {
    multiply_part<kHeld, 1, kLines>, multiply_part<kHeld, 2, kLines>,
    multiply_part<kHeld, 3, kLines>, multiply_part<kHeld, 4, kLines>,
    multiply_part<kHeld, 5, kLines>, multiply_part<kHeld, 6, kLines>};

/// Together the groups fetch what all of them need next.
template <DType kHeld>
MultiplyPart choose(std::int64_t groups, std::int64_t rows) {
  if (groups == 1 && rows <= kUnfetchedRows) return kMultiplyPart<kHeld, 0>[rows - 1];
  if (groups == 1) return kMultiplyPart<kHeld, 4>[rows - 1];
  return groups <= kFewGroups ? kMultiplyPart<kHeld, 2>[rows - 1]
                              : kMultiplyPart<kHeld, 1>[rows - 1];
}

template <DType kHeld>
void multiply_block(const Layout& layout, const Order& order, std::int64_t rows, Left x,
                    const std::byte* block, float* sums) {
  alignas(64) float chunk[kMostRows * kBlockColumns];
  const std::int64_t groups = (rows + kRowsAtOnce - 1) / kRowsAtOnce;
  const std::int64_t cached = groups <= kFewGroups ? kCachedWords : kCachedWordsOfMany;
  const std::int64_t step = groups == 1 ? order.chunk_words : std::min(cached, order.chunk_words);
  const std::int64_t share_bytes =
      step * static_cast<std::int64_t>(kWordsBytes) / (groups <= kFewGroups ? 2 : 4);
  for (std::int64_t begin = 0; begin < layout.words; begin += order.chunk_words) {
    const std::int64_t end = std::min(begin + order.chunk_words, layout.words);
    for (std::int64_t at = begin; at < end; at += step) {
      const std::byte* weight = block + static_cast<std::size_t>(at) * kWordsBytes;
      Part part{std::min(step, end - at), at == begin, at + step >= end, begin == 0, nullptr};
      std::int64_t row = 0;
      for (std::int64_t group = 0; group < groups; ++group) {
        const std::int64_t count = (rows - row + groups - group - 1) / (groups - group);
        part.next =
            groups == 1 ? weight + kAheadBytes : weight + step * kWordsBytes + group * share_bytes;
        choose<kHeld>(groups, count)(part,
                                     {x.data + static_cast<std::size_t>(row) * x.row_bytes +
                                          static_cast<std::size_t>(at) * sizeof(std::int32_t),
                                      x.row_bytes},
                                     weight, chunk + row * kBlockColumns,
                                     sums + row * kBlockColumns);
        row += count;
      }
    }
  }
}

AIRLOCK_AVX512 void round_vectors(const float* sums, std::byte* to, std::size_t count) {
  for (std::size_t i = 0; i < count; i += 16) {
    const auto mask = static_cast<__mmask16>((1U << std::min<std::size_t>(count - i, 16)) - 1);
    const __m256bh rounded = _mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(mask, sums + i));
    _mm256_mask_storeu_epi16(to + 2 * i, mask, reinterpret_cast<__m256i>(rounded));
  }
}

}  // namespace

bool can_multiply(DType held) {
  static const bool has_fp32 = __builtin_cpu_supports("avx512f") != 0 &&
                               __builtin_cpu_supports("avx512bw") != 0 &&
                               __builtin_cpu_supports("avx512vl") != 0;
  static const bool has_bf16 = has_fp32 && __builtin_cpu_supports("avx512bf16") != 0;
  return held == DType::kBF16 ? has_bf16 : held == DType::kF32 && has_fp32;
}

void multiply(DType held, const Layout& layout, const Order& order, std::int64_t rows,
              const std::byte* x, std::size_t row_bytes, const std::byte* block, float* sums) {
  CHECK(rows >= 1 && rows <= kMostRows && order.known());
  if (held == DType::kBF16) {
    multiply_block<DType::kBF16>(layout, order, rows, {x, row_bytes}, block, sums);
  } else {
    multiply_block<DType::kF32>(layout, order, rows, {x, row_bytes}, block, sums);
  }
}

void round_to_bf16(const float* sums, std::byte* to, std::size_t count) {
  round_vectors(sums, to, count);
}

#else

bool can_multiply(DType) { return false; }

void multiply(DType, const Layout&, const Order&, std::int64_t, const std::byte*, std::size_t,
              const std::byte*, float*) {
  CHECK(false);
}

void round_to_bf16(const float*, std::byte*, std::size_t) { CHECK(false); }

#endif

}  // namespace airlock::few_rows
