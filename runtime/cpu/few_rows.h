#pragma once

#include <cstddef>
#include <cstdint>

#include "base/dtype.h"

/// Internal to runtime/cpu.
namespace airlock::few_rows {

/// Up to here ours is at least as fast as oneDNN; up to about 8 rows a product takes as long as the
/// weight takes from memory.
inline constexpr std::int64_t kMostRows = 32;
/// Of a block, which lies in one piece.
inline constexpr std::int64_t kBlockColumns = 64;
/// What a block takes of one word of each of its columns. A word is what lies together of a column:
/// one fp32, or two bf16.
inline constexpr std::size_t kWordsBytes = kBlockColumns * sizeof(std::uint32_t);

/// A right side k x n in blocks of kBlockColumns columns, each of them word after word, of one word
/// all columns: oneDNN's BA16a64b for fp32 and its BA16a64b2a for bf16. What is missing of the last
/// block, and of a multiple of 16 words, is zeros.
struct Layout {
  std::int64_t words = 0;
  std::size_t block_bytes = 0;

  /// Of `k` values, which make whole words.
  static Layout of(DType held, std::int64_t k);
};

/// In what order a sum is made: from zero over chunk_words of its words, one after the other, each
/// with fused multiplications and additions in fp32; then this is added to the sum of the chunks
/// before it.
struct Order {
  // 0: none is known that gives oneDNN's bits, and oneDNN multiplies all.
  std::int64_t chunk_words = 0;

  bool known() const { return chunk_words > 0; }
  bool operator==(const Order&) const = default;
};

/// Whether this CPU has what multiply() needs for this type.
bool can_multiply(DType held);

/// One block of a product x [rows, k] times a right side: sums [rows, kBlockColumns]. 1 to
/// kMostRows rows, of `held`, `row_bytes` from one to the next. `block` is a block of `layout`. A
/// row's bits do not depend on the others. Any thread.
void multiply(DType held, const Layout& layout, const Order& order, std::int64_t rows,
              const std::byte* x, std::size_t row_bytes, const std::byte* block, float* sums);

/// Rounds a row of sums to bf16 as oneDNN does on this CPU; where can_multiply(kBF16).
void round_to_bf16(const float* sums, std::byte* to, std::size_t count);

/// The words of column `column`, one behind the other, from a right side of `layout` at `data`.
void copy_column(const Layout& layout, const std::byte* data, std::int64_t column, std::byte* to);

}  // namespace airlock::few_rows
