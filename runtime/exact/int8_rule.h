#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace airlock {

/// The arithmetic of int8_weights.h on rows that lie in memory: plain loops, the same bits on every
/// machine. Rows are fp32, dense [row_count, columns] where not said otherwise.
namespace int8_rule {

/// e_j of every column, from p_j and the sum of the squares of column j's `rows` weights.
/// Both finite, one a column.
std::vector<std::int8_t> column_exponents(std::span<const double> column_sizes,
                                          std::span<const double> column_squares,
                                          std::int64_t rows);

/// Adds the squares of `count` neighbouring columns to `sums` [count], row after row; a row begins
/// `pitch` floats behind the last.
void add_column_squares(const float* rows, std::size_t row_count, std::size_t pitch,
                        std::size_t count, double* sums);

/// The sum of the squares of each row times `factors` (elementwise, [columns]): out [row_count].
void row_squares(const float* rows, std::size_t row_count, std::size_t columns,
                 const double* factors, double* out);

/// The largest |row[j] * folds[j]|; not finite where one is not.
double largest(const float* row, const double* folds, std::size_t columns);

/// The first plane of a row: rint(row[j] * folds[j] / scale), in +-127. `scale` is above 0.
void round_row(const float* row, const double* folds, std::size_t columns, float scale,
               std::int8_t* plane);

/// The second plane: what the first left, in units of scale / 254.
void round_rest(const float* row, const double* folds, std::size_t columns, float scale,
                const std::int8_t* first, std::int8_t* second);

/// Norms of a row of integers.
struct RowNorms {
  std::int64_t l1 = 0;
  std::int64_t l2_squared = 0;
  std::int64_t most = 0;
};
RowNorms norms_of(const std::int8_t* row, std::size_t columns);

}  // namespace int8_rule

}  // namespace airlock
