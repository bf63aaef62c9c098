#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "base/tensor.h"
#include "proto/limits.h"
#include "proto/op.h"
#include "runtime/cpu/numerics.h"
#include "runtime/cpu/onednn.h"
#include "runtime/cpu/pieces.h"
#include "runtime/cpu/weights.h"

/// Internal to runtime/cpu.
namespace airlock {

class Product;

/// What one thread needs while it computes pieces of products.
struct PieceMemory {
  // Product::memory_bytes() of it, at a multiple of 64.
  std::byte* data = nullptr;
  // What follows is of this one.
  const Product* product = nullptr;
  // Which columns of which right side lie there, copied for an earlier piece of the same product.
  std::int64_t copied_batch = -1;
  std::int64_t copied_column = -1;
};

/// A product of an op over its caller's memory, in pieces. Each piece is multiplied by one call of
/// oneDNN on one thread, from dense blocks to a dense block, so that its bits depend on the piece
/// alone; what is no dense block of the result is copied there row by row, and rounded on the way.
/// A weight times few rows goes block by block through few_rows::multiply() where that gives
/// oneDNN's bits. Whoever ran every piece has written every element of the result.
class Product {
 public:
  /// x [m, k], held, times `weight`. Throws dnnl::error, here and below.
  Product(onednn::ProductCache& cache, const Numerics& numerics, const std::byte* x,
          const HeldWeight& weight, MutableTensorView result);
  /// a [heads, m, k] times b [groups, k, n], held, either of them transposed.
  Product(onednn::ProductCache& cache, const Numerics& numerics, const OpSpec& spec,
          const std::byte* a, const std::byte* b, MutableTensorView result);

  std::size_t piece_count() const { return pieces_.count(); }
  /// Multiplications and additions.
  std::int64_t flop() const {
    return 2 * pieces_.batches.count * pieces_.rows.count * pieces_.columns.count * k_;
  }
  /// What a thread needs in a PieceMemory.
  std::size_t memory_bytes() const { return scratchpad_at_ + scratchpad_bytes_; }
  /// Computes a piece. Any thread, with a number, a PieceMemory and a stream of its own, under
  /// OneThread.
  void run(std::size_t piece, std::size_t worker, PieceMemory& memory, dnnl::stream& stream) const;

 private:
  void make_calls(onednn::ProductCache& cache);
  void run_few_rows(const Piece& piece) const;
  std::size_t call_index(const Piece& piece) const;
  const std::byte* left(const Piece& piece, PieceMemory& memory) const;
  const std::byte* right(const Piece& piece, PieceMemory& memory) const;
  void put(const Piece& piece, const std::byte* block) const;
  bool is_written_in_place(const Piece& piece) const;

  DType held_;
  std::size_t element_bytes_;
  std::int64_t m_ = 0;
  std::int64_t k_ = 0;
  std::int64_t n_ = 0;
  // Batches of a that meet one batch of b.
  std::int64_t sharing_ = 1;
  Pieces pieces_;
  Transpose transpose_ = Transpose::kNone;
  const std::byte* a_;
  // Null where a weight is the right side.
  const std::byte* b_ = nullptr;
  const HeldWeight* weight_ = nullptr;
  bool few_rows_ = false;
  MutableTensorView result_;
  // Of the blocks, as oneDNN writes them: result_'s, or kF32 where it cannot write that.
  DType block_dtype_;
  // Of each of the sizes that pieces have: a full or the last part of batches, rows and columns.
  // The cache's, which keeps more than the products of one op need.
  std::array<onednn::Call*, 8> calls_{};
  static_assert(8 * limits::kMaxWeightsPerOp <= onednn::ProductCache::kCachedCalls);
  // Where in a PieceMemory the copies of a and b and the block lie.
  std::size_t b_at_ = 0;
  std::size_t block_at_ = 0;
  std::size_t scratchpad_at_ = 0;
  std::size_t scratchpad_bytes_ = 0;
};

}  // namespace airlock
