#include "runtime/cpu/panel_packer.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "runtime/cpu/few_rows.h"
#include "runtime/cpu/onednn.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace airlock {

namespace {

using Desc = dnnl::memory::desc;
using Tag = dnnl::memory::format_tag;

/// Words of rows that follow each other, from `row_bytes` to `row_bytes`. kBF16: halves that become
/// words of fp32; else words as they are.
struct Source {
  const std::byte* data;
  std::size_t row_bytes;
  bool is_bf16;

  std::uint32_t word(std::int64_t row, std::int64_t at) const {
    const std::byte* from = data + static_cast<std::size_t>(row) * row_bytes;
    if (is_bf16) {
      std::uint16_t half;
      std::memcpy(&half, from + static_cast<std::size_t>(at) * sizeof half, sizeof half);
      return static_cast<std::uint32_t>(half) << 16;
    }
    std::uint32_t word;
    std::memcpy(&word, from + static_cast<std::size_t>(at) * sizeof word, sizeof word);
    return word;
  }
};

/// Rows and words of `from` from (0, first_word) on, to words of `row_words` columns each.
void pack_plainly(const Source& from, std::int64_t rows, std::int64_t first_word,
                  std::int64_t end_word, std::uint32_t* to, std::int64_t row_words) {
  for (std::int64_t word = first_word; word < end_word; ++word) {
    for (std::int64_t row = 0; row < rows; ++row) to[word * row_words + row] = from.word(row, word);
  }
}

#if defined(__x86_64__)

#define AIRLOCK_AVX2 __attribute__((target("avx2")))

constexpr std::int64_t kLanes = 8;

/// Of 8 vectors of 8 words each.
AIRLOCK_AVX2 inline void transpose(__m256 (&v)[kLanes]) {
  __m256 pair[kLanes];
  for (int i = 0; i < kLanes; i += 2) {
    pair[i] = _mm256_unpacklo_ps(v[i], v[i + 1]);
    pair[i + 1] = _mm256_unpackhi_ps(v[i], v[i + 1]);
  }
  __m256 four[kLanes];
  for (int i = 0; i < kLanes; i += 4) {
    four[i] = _mm256_shuffle_ps(pair[i], pair[i + 2], 0x44);
    four[i + 1] = _mm256_shuffle_ps(pair[i], pair[i + 2], 0xee);
    four[i + 2] = _mm256_shuffle_ps(pair[i + 1], pair[i + 3], 0x44);
    four[i + 3] = _mm256_shuffle_ps(pair[i + 1], pair[i + 3], 0xee);
  }
  for (int i = 0; i < kLanes / 2; ++i) {
    v[i] = _mm256_permute2f128_ps(four[i], four[i + 4], 0x20);
    v[i + 4] = _mm256_permute2f128_ps(four[i], four[i + 4], 0x31);
  }
}

template <bool kIsBf16>
AIRLOCK_AVX2 inline __m256 load_words(const std::byte* from) {
  if constexpr (kIsBf16) {
    const __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
  } else {
    return _mm256_loadu_ps(reinterpret_cast<const float*>(from));
  }
}

/// kPackedRows rows; words below `words`, a multiple of kLanes: a line of `to` for each word. Plain
/// stores: the system has just zeroed these pages, and they still lie in a cache.
template <bool kIsBf16>
AIRLOCK_AVX2 void pack_lines(const Source& from, std::int64_t words, float* to,
                             std::int64_t row_words) {
  constexpr std::size_t kUnit = kIsBf16 ? 2 : 4;
  for (std::int64_t word = 0; word < words; word += kLanes) {
    const std::byte* const first = from.data + static_cast<std::size_t>(word) * kUnit;
    __m256 upper[kLanes];
    __m256 lower[kLanes];
    for (int i = 0; i < kLanes; ++i)
      upper[i] = load_words<kIsBf16>(first + static_cast<std::size_t>(i) * from.row_bytes);
    transpose(upper);
    for (int i = 0; i < kLanes; ++i)
      lower[i] = load_words<kIsBf16>(first + static_cast<std::size_t>(i + kLanes) * from.row_bytes);
    transpose(lower);
    for (int i = 0; i < kLanes; ++i) {
      _mm256_store_ps(to, upper[i]);
      _mm256_store_ps(to + kLanes, lower[i]);
      to += row_words;
    }
  }
}

bool has_avx2() {
  static const bool has = __builtin_cpu_supports("avx2") != 0;
  return has;
}

/// How many words of each row were packed.
std::int64_t pack_fast(const Source& from, std::int64_t rows, std::int64_t words, std::byte* to,
                       std::int64_t row_words) {
  if (!has_avx2() || rows != kPackedRows || row_words % kPackedRows != 0) return 0;
  const std::int64_t whole = words / kLanes * kLanes;
  auto* const values = reinterpret_cast<float*>(to);
  if (from.is_bf16) {
    pack_lines<true>(from, whole, values, row_words);
  } else {
    pack_lines<false>(from, whole, values, row_words);
  }
  return whole;
}

#else

std::int64_t pack_fast(const Source&, std::int64_t, std::int64_t, std::byte*, std::int64_t) {
  return 0;
}

#endif

}  // namespace

PanelForm find_panel_form(DType held, std::int64_t k, std::int64_t n, const Desc& layout) {
  const bool is_bf16 = held == DType::kBF16;
  if (is_bf16 && k % 2 != 0) return {};
  const auto type = onednn::data_type(held);
  const few_rows::Layout blocks = few_rows::Layout::of(held, k);
  const std::int64_t count = (n + few_rows::kBlockColumns - 1) / few_rows::kBlockColumns;
  if (layout == Desc({k, n}, type, is_bf16 ? Tag::BA16a64b2a : Tag::BA16a64b) &&
      layout.get_size() == static_cast<std::size_t>(count) * blocks.block_bytes)
    return {few_rows::kBlockColumns, blocks.words, blocks.block_bytes};
  if (!is_bf16 && layout == Desc({k, n}, type, Tag::ab))
    return {n, k, static_cast<std::size_t>(k * n) * sizeof(float)};
  return {};
}

void pack_rows(const PanelForm& form, DType from, DType held, const std::byte* rows,
               std::int64_t first, std::int64_t count, std::byte* panel) {
  CHECK(form.known() && first % kPackedRows == 0);
  CHECK(from == held || (from == DType::kBF16 && held == DType::kF32));
  const bool widens = from != held;
  const std::size_t row_bytes = static_cast<std::size_t>(form.words) * (widens ? 2 : 4);
  for (std::int64_t done = 0; done < count; done += kPackedRows) {
    const std::int64_t column = first + done;
    const std::int64_t now = std::min(kPackedRows, count - done);
    const Source source{rows + static_cast<std::size_t>(done) * row_bytes, row_bytes, widens};
    std::byte* const to = panel +
                          static_cast<std::size_t>(column / form.columns) * form.block_bytes +
                          static_cast<std::size_t>(column % form.columns) * sizeof(std::uint32_t);
    const std::int64_t packed = pack_fast(source, now, form.words, to, form.columns);
    pack_plainly(source, now, packed, form.words, reinterpret_cast<std::uint32_t*>(to),
                 form.columns);
  }
}

}  // namespace airlock
