#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "proto/op.h"

namespace airlock {

/// [0, count) cut into parts of `step`, of which the last may be shorter.
struct Cut {
  Cut() = default;
  Cut(std::int64_t whole, std::int64_t part)
      : count(whole), step(part), part_count((whole + part - 1) / part) {}

  std::int64_t count = 0;
  std::int64_t step = 1;
  // Kept: a division takes as long as much of what a small product costs.
  std::int64_t part_count = 0;

  std::int64_t parts() const { return part_count; }
  std::int64_t begin(std::int64_t part) const { return part * step; }
  std::int64_t size(std::int64_t part) const { return std::min(step, count - part * step); }
};

/// A block of a product: these rows and columns of these batches.
struct Piece {
  std::int64_t batch = 0;
  std::int64_t batches = 0;
  std::int64_t row = 0;
  std::int64_t rows = 0;
  std::int64_t column = 0;
  std::int64_t columns = 0;
};

/// A product [batches, rows, columns] as pieces that are computed one by one, in any order and on
/// any thread: each element lies in one of them. Pieces that meet the same columns of the right
/// side follow each other.
struct Pieces {
  Cut batches;
  Cut rows;
  Cut columns;

  std::size_t count() const {
    return static_cast<std::size_t>(batches.parts() * columns.parts() * rows.parts());
  }
  Piece at(std::size_t index) const;
};

/// Columns of a weight that are packed, and multiplied, together. A constant: a row's bits depend
/// on nothing else that is computed.
inline constexpr std::int64_t kPanelColumns = 256;

/// x [rows, k] times a weight with `columns` columns.
Pieces weight_pieces(std::int64_t rows, std::int64_t k, std::int64_t columns);
/// `batches` products [rows, k] x [k, columns] of operands. The size of a piece depends on k and
/// `columns` alone, but for products so small that several make a piece. Where `transpose` is kA,
/// or kNone with several pieces of columns, a piece's operand is copied before it is multiplied:
/// those copies are bounded too.
Pieces matmul_pieces(std::int64_t batches, std::int64_t rows, std::int64_t k, std::int64_t columns,
                     Transpose transpose);

}  // namespace airlock
