#pragma once

#include <cstddef>
#include <cstdint>

#include "proto/op.h"
#include "runtime/compute.h"
#include "runtime/cpu/pieces.h"

/// Internal to runtime/cpu.
namespace airlock {

/// A matmul of fp64 over its caller's memory, in pieces. Each piece is one call of BLIS on one
/// thread, so that its bits depend on the piece alone, and pieces depend on the shapes alone.
/// Whoever ran every piece has written every element of the result.
class ProductF64 {
 public:
  /// What check_memory() took; all three are fp64.
  ProductF64(const OpSpec& spec, const OpMemory& memory);

  std::size_t piece_count() const { return pieces_.count(); }
  /// Multiplications and additions.
  std::int64_t flop() const {
    return 2 * pieces_.batches.count * pieces_.rows.count * pieces_.columns.count * k_;
  }
  /// Any thread.
  void run(std::size_t piece) const;

 private:
  std::int64_t m_ = 0;
  std::int64_t k_ = 0;
  std::int64_t n_ = 0;
  // Batches of a that meet one batch of b.
  std::int64_t sharing_ = 1;
  Transpose transpose_ = Transpose::kNone;
  Pieces pieces_;
  const double* a_;
  const double* b_;
  double* result_;
};

}  // namespace airlock
