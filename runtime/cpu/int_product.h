#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>

#include "runtime/cpu/int_digits.h"
#include "runtime/cpu/onednn.h"
#include "runtime/cpu/pieces.h"
#include "runtime/cpu/weights.h"

/// Internal to runtime/cpu.
namespace airlock {

/// Rows of words times int8 weights, mod 2^32, in pieces: the words' digits [digit rows, k] meet a
/// panel in one call of oneDNN, s8 x s8 to s32, and what comes of a word's digits is added up.
/// Whoever ran every piece has written every element of the result, once.
class IntProduct {
 public:
  /// Rows of digits of one piece at most, k long.
  static std::int64_t most_digit_rows(std::int64_t k);

  /// `digits` [rows.digit_rows, k], dense. `result` [rows, weight.n] of uint32. All outlive it.
  /// Throws dnnl::error, here and below.
  IntProduct(onednn::ProductCache& cache, const DigitRows& rows, const std::int8_t* digits,
             const HeldWeight& weight, std::byte* result);

  std::size_t piece_count() const {
    return rows_->groups.size() * static_cast<std::size_t>(columns_.parts());
  }
  /// Multiplications and additions.
  std::int64_t flop() const { return 2 * rows_->digit_rows * weight_->k * weight_->n; }
  /// What a thread needs, at a multiple of 64.
  std::size_t memory_bytes() const { return block_bytes_ + scratchpad_bytes_; }
  /// Computes a piece. Any thread, with a number, memory and a stream of its own, under OneThread.
  void run(std::size_t piece, std::size_t worker, std::byte* memory, dnnl::stream& stream) const;

 private:
  // By the rows of digits, of a full panel and of the last one: the cache's.
  using Calls = std::map<std::int64_t, std::array<onednn::Call*, 2>>;

  const DigitRows* rows_;
  const std::int8_t* digits_;
  const HeldWeight* weight_;
  std::byte* result_;
  Cut columns_;
  Calls calls_;
  std::size_t block_bytes_ = 0;
  std::size_t scratchpad_bytes_ = 0;
};

}  // namespace airlock
