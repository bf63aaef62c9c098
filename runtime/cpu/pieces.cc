#include "runtime/cpu/pieces.h"

namespace airlock {

namespace {

/// Elements of a result that one piece writes: memory that is met for the first time costs far more
/// than the products that go there.
constexpr std::int64_t kMostResults = std::int64_t{1} << 20;
// Multiplications and additions. A piece of a usual size takes about a millisecond of one core, and
// the largest of all a few tens: threads share the work evenly, and a turn ends soon.
constexpr std::int64_t kUsualFlop = std::int64_t{1} << 27;
constexpr std::int64_t kMostFlop = std::int64_t{1} << 32;
// Below this a piece is not worth a call of its own.
constexpr std::int64_t kLeastFlop = std::int64_t{1} << 22;
constexpr std::int64_t kUsualRows = 128;
// Fewer rows than these do not pay for what a piece's right side costs to load.
constexpr std::int64_t kLeastRows = 32;
// A right side up to here is multiplied whole.
constexpr std::int64_t kWholeColumns = 4096;
// Elements of an operand that a piece copies.
constexpr std::int64_t kCopiedElements = std::int64_t{1} << 22;
constexpr std::int64_t kColumnUnit = 16;

std::int64_t floor_to(std::int64_t value, std::int64_t unit) {
  return std::max(value / unit * unit, unit);
}

}  // namespace

Piece Pieces::at(std::size_t index) const {
  auto rest = static_cast<std::int64_t>(index);
  const std::int64_t row = rest % rows.parts();
  rest /= rows.parts();
  const std::int64_t column = rest % columns.parts();
  const std::int64_t batch = rest / columns.parts();
  return {batches.begin(batch), batches.size(batch),   rows.begin(row),
          rows.size(row),       columns.begin(column), columns.size(column)};
}

Pieces weight_pieces(std::int64_t rows, std::int64_t k, std::int64_t columns) {
  const std::int64_t most_rows = floor_to(kMostFlop / (2 * kPanelColumns * k), kLeastRows);
  return {{1, 1}, {rows, std::min(kUsualRows, most_rows)}, {columns, kPanelColumns}};
}

Pieces matmul_pieces(std::int64_t batches, std::int64_t rows, std::int64_t k, std::int64_t columns,
                     Transpose transpose) {
  std::int64_t wide = columns;
  std::int64_t most_columns = kMostFlop / (2 * kLeastRows * k);
  if (columns > std::min(kWholeColumns, most_columns)) {
    most_columns = std::min(most_columns, kWholeColumns);
    if (transpose != Transpose::kB) most_columns = std::min(most_columns, kCopiedElements / k);
    wide = floor_to(most_columns, kColumnUnit);
  }
  std::int64_t tall =
      floor_to(std::min(kUsualFlop / (2 * k * wide), kMostResults / wide), kLeastRows);
  if (transpose == Transpose::kA) {
    tall = std::min(tall, floor_to(kCopiedElements / k, kLeastRows));
    return {{batches, 1}, {rows, tall}, {columns, wide}};
  }
  const std::int64_t flop = 2 * rows * k * columns;
  const bool whole = rows <= tall && columns <= wide;
  const std::int64_t together = whole ? std::max<std::int64_t>(kLeastFlop / flop, 1) : 1;
  return {{batches, together}, {rows, tall}, {columns, wide}};
}

}  // namespace airlock
