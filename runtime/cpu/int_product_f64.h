#pragma once

#include <cstddef>
#include <cstdint>

#include "runtime/cpu/onednn.h"
#include "runtime/cpu/pieces.h"
#include "runtime/cpu/weights.h"

/// Internal to runtime/cpu.
namespace airlock {

/// Rows of words times int8 weights, mod 2^32, as IntProduct gives it and where that would be
/// wrong: words, read as int32, and weights are multiplied as fp64. A sum over kMostDepth columns
/// is below 2^53 and so exact; those sums are added mod 2^32. Whoever ran every piece has written
/// every element of the result, once.
class IntProductF64 {
 public:
  /// Columns of the input that one sum goes over. 33025 would be exact: 2^31 * 127 * 33025 < 2^53.
  static constexpr std::int64_t kMostDepth = 4096;

  /// `words` [rows, weight.k], dense; the weight's rows as they are. `result` [rows, weight.n] of
  /// uint32. All outlive it.
  IntProductF64(std::int64_t rows, const std::uint32_t* words, const HeldWeight& weight,
                std::byte* result);

  std::size_t piece_count() const {
    return static_cast<std::size_t>(rows_.parts() * columns_.parts());
  }
  /// Multiplications and additions.
  std::int64_t flop() const { return 2 * rows_.count * weight_->k * weight_->n; }
  /// What a thread needs, at a multiple of 64.
  std::size_t memory_bytes() const;
  /// Computes a piece. Any thread, with memory of its own; the others are not used.
  void run(std::size_t piece, std::size_t worker, std::byte* memory, dnnl::stream& stream) const;

 private:
  std::int64_t depth() const { return weight_->k < kMostDepth ? weight_->k : kMostDepth; }

  Cut rows_;
  Cut columns_;
  const std::uint32_t* words_;
  const HeldWeight* weight_;
  std::byte* result_;
};

}  // namespace airlock
