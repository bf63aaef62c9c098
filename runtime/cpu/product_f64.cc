#include "runtime/cpu/product_f64.h"

#include <algorithm>
#include <utility>

#include "runtime/cpu/blas.h"

namespace airlock {
namespace {

// Of a piece: what it reads is packed anew for each, and a turn of the compute threads is to end
// soon: a piece takes some tens of milliseconds of one core, and a few times that with the longest
// k.
constexpr std::int64_t kMostFlop = std::int64_t{1} << 31;
constexpr std::int64_t kLeastSide = 128;
constexpr std::int64_t kMostSide = 256;

/// The side of a square piece.
std::int64_t side_for(std::int64_t k) {
  std::int64_t side = kMostSide;
  while (side > kLeastSide && 2 * side * side * k > kMostFlop) side /= 2;
  return side;
}

}  // namespace

ProductF64::ProductF64(const OpSpec& spec, const OpMemory& memory)
    : m_(memory.results[0].desc.shape[1]),
      k_(spec.inputs[0].shape[spec.transpose == Transpose::kA ? 1 : 2]),
      n_(memory.results[0].desc.shape[2]),
      sharing_(spec.inputs[0].shape[0] / spec.inputs[1].shape[0]),
      transpose_(spec.transpose),
      a_(memory.inputs[0].as<double>().data()),
      b_(memory.inputs[1].as<double>().data()),
      result_(memory.results[0].as<double>().data()) {
  std::int64_t batches = spec.inputs[0].shape[0];
  if (transpose_ != Transpose::kA) {
    // The heads of a group lie one behind the other: they are the rows of one matrix.
    batches /= sharing_;
    m_ *= std::exchange(sharing_, 1);
  }
  const std::int64_t side = side_for(k_);
  pieces_ = {{batches, 1}, {m_, side}, {n_, side}};
}

void ProductF64::run(std::size_t index) const {
  const Piece piece = pieces_.at(index);
  const bool a_lies = transpose_ == Transpose::kA;
  const bool b_lies = transpose_ == Transpose::kB;
  const double* a = a_ + piece.batch * m_ * k_ + (a_lies ? piece.row : piece.row * k_);
  const double* b =
      b_ + piece.batch / sharing_ * k_ * n_ + (b_lies ? piece.column * k_ : piece.column);
  double* result = result_ + (piece.batch * m_ + piece.row) * n_ + piece.column;
  blas::dgemm(piece.rows, piece.columns, k_, {a, a_lies ? m_ : k_, a_lies},
              {b, b_lies ? k_ : n_, b_lies}, result, n_);
}

}  // namespace airlock
