#include "runtime/cpu/pieces.h"

#include <gtest/gtest.h>

#include <vector>

namespace airlock {
namespace {

constexpr Transpose kTransposes[] = {Transpose::kNone, Transpose::kA, Transpose::kB};

/// How often each element of [batches, rows, columns] lies in a piece.
std::vector<int> visits(const Pieces& pieces, std::int64_t rows, std::int64_t columns) {
  std::vector<int> count(static_cast<std::size_t>(pieces.batches.count * rows * columns));
  for (std::size_t i = 0; i < pieces.count(); ++i) {
    const Piece piece = pieces.at(i);
    for (std::int64_t b = piece.batch; b < piece.batch + piece.batches; ++b) {
      for (std::int64_t r = piece.row; r < piece.row + piece.rows; ++r) {
        for (std::int64_t c = piece.column; c < piece.column + piece.columns; ++c)
          ++count.at(static_cast<std::size_t>((b * rows + r) * columns + c));
      }
    }
  }
  return count;
}

TEST(Pieces, cover_each_element_once) {
  for (const Pieces& pieces :
       {Pieces{{1, 1}, {1, 1}, {1, 1}}, Pieces{{5, 2}, {7, 3}, {9, 4}},
        Pieces{{4, 4}, {6, 3}, {8, 8}}, Pieces{{3, 1}, {1, 128}, {300, 256}}}) {
    const auto count = visits(pieces, pieces.rows.count, pieces.columns.count);
    EXPECT_EQ(std::ranges::count(count, 1), static_cast<std::ptrdiff_t>(count.size()));
  }
}

TEST(Pieces, of_real_products_cover_each_element_once) {
  for (const std::int64_t rows : {1, 3, 127, 128, 129, 1000}) {
    for (const std::int64_t columns : {1, 255, 256, 257, 1000}) {
      const auto count = visits(weight_pieces(rows, 2048, columns), rows, columns);
      ASSERT_EQ(std::ranges::count(count, 1), rows * columns) << rows << " x " << columns;
      for (const Transpose transpose : kTransposes) {
        for (const std::int64_t k : {1, 64, 40000}) {
          const Pieces pieces = matmul_pieces(6, rows, k, columns, transpose);
          const auto all = visits(pieces, rows, columns);
          ASSERT_EQ(std::ranges::count(all, 1), 6 * rows * columns) << rows << " " << columns;
        }
      }
    }
  }
}

TEST(Pieces, of_a_weight_are_cut_where_only_k_says) {
  const Pieces one = weight_pieces(1, 2048, 300);
  for (const std::int64_t rows : {1, 100, 131072}) {
    for (const std::int64_t columns : {1, 256, 128256}) {
      const Pieces pieces = weight_pieces(rows, 2048, columns);
      EXPECT_EQ(pieces.rows.step, one.rows.step);
      EXPECT_EQ(pieces.columns.step, kPanelColumns);
    }
  }
}

TEST(Pieces, of_operands_cut_rows_whatever_rows_there_are) {
  for (const Transpose transpose : kTransposes) {
    for (const std::int64_t k : {1, 64, 1024, 131072}) {
      for (const std::int64_t columns : {1, 64, 1024, 131072}) {
        const Pieces one = matmul_pieces(1, 1, k, columns, transpose);
        const Pieces many = matmul_pieces(8, 4096, k, columns, transpose);
        EXPECT_EQ(one.rows.step, many.rows.step);
        EXPECT_EQ(one.columns.step, many.columns.step);
      }
    }
  }
}

// Of a piece depends how long a turn can be, and what memory a thread needs.
TEST(Pieces, are_bounded_for_every_size_that_is_allowed) {
  constexpr std::int64_t kMostFlop = std::int64_t{1} << 32;
  constexpr std::int64_t kMostElements = std::int64_t{1} << 22;
  for (std::int64_t k = 1; k <= 131072; k = k * 3 + 1) {
    EXPECT_LE(2 * kPanelColumns * k * weight_pieces(131072, k, 1).rows.step, kMostFlop) << k;
    for (std::int64_t columns = 1; columns <= 131072; columns = columns * 2 + 1) {
      for (const Transpose transpose : kTransposes) {
        const Pieces pieces = matmul_pieces(1, 131072, k, columns, transpose);
        const std::int64_t tall = std::min(pieces.rows.step, pieces.rows.count);
        const std::int64_t wide = std::min(pieces.columns.step, columns);
        ASSERT_LE(2 * tall * wide * k, kMostFlop) << k << " " << columns;
        ASSERT_LE(tall * wide, std::max(std::int64_t{1} << 20, 32 * wide)) << k << " " << columns;
        if (transpose == Transpose::kA) {
          ASSERT_LE(tall * k, kMostElements) << k << " " << columns;
        }
        if (transpose != Transpose::kB && pieces.columns.parts() > 1) {
          ASSERT_LE(wide * k, kMostElements) << k << " " << columns;
        }
      }
    }
  }
}

TEST(Pieces, of_many_tiny_products_hold_several) {
  EXPECT_EQ(matmul_pieces(1024, 1, 1, 1, Transpose::kNone).count(), 1U);
  EXPECT_EQ(matmul_pieces(8, 4096, 64, 1024, Transpose::kB).batches.step, 1);
}

}  // namespace
}  // namespace airlock
