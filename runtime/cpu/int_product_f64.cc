#include "runtime/cpu/int_product_f64.h"

#include <algorithm>

#include "runtime/cpu/blas.h"

namespace airlock {

namespace {

constexpr std::int64_t kSide = 64;
static_assert(kPanelColumns % kSide == 0);
static_assert(IntProductF64::kMostDepth <= 33025);

}  // namespace

IntProductF64::IntProductF64(std::int64_t rows, const std::uint32_t* words,
                             const HeldWeight& weight, std::byte* result)
    : rows_(rows, kSide),
      columns_(weight.n, kSide),
      words_(words),
      weight_(&weight),
      result_(result) {}

std::size_t IntProductF64::memory_bytes() const {
  return static_cast<std::size_t>(2 * kSide * depth() + kSide * kSide) * sizeof(double) +
         kSide * kSide * sizeof(std::uint32_t);
}

void IntProductF64::run(std::size_t piece, std::size_t, std::byte* memory, dnnl::stream&) const {
  const auto index = static_cast<std::int64_t>(piece);
  const std::int64_t row = rows_.begin(index % rows_.parts());
  const std::int64_t rows = rows_.size(index % rows_.parts());
  const std::int64_t column = columns_.begin(index / rows_.parts());
  const std::int64_t columns = columns_.size(index / rows_.parts());
  const std::int64_t k = weight_->k;
  // A piece lies in one panel, whose rows of k weights follow each other.
  const std::int64_t panel = column / kPanelColumns * kPanelColumns;
  const auto* weights =
      reinterpret_cast<const std::int8_t*>(weight_->panel(panel).data) + (column - panel) * k;
  auto* a = reinterpret_cast<double*>(memory);
  double* b = a + kSide * depth();
  double* sums = b + kSide * depth();
  auto* totals = reinterpret_cast<std::uint32_t*>(sums + kSide * kSide);
  std::fill_n(totals, kSide * kSide, 0U);
  const Cut depths(k, depth());
  for (std::int64_t part = 0; part < depths.parts(); ++part) {
    const std::int64_t at = depths.begin(part);
    const std::int64_t count = depths.size(part);
    for (std::int64_t i = 0; i < rows; ++i) {
      const std::uint32_t* from = words_ + (row + i) * k + at;
      for (std::int64_t j = 0; j < count; ++j)
        a[i * count + j] = static_cast<double>(static_cast<std::int32_t>(from[j]));
    }
    for (std::int64_t i = 0; i < columns; ++i) {
      const std::int8_t* from = weights + i * k + at;
      for (std::int64_t j = 0; j < count; ++j) b[i * count + j] = static_cast<double>(from[j]);
    }
    blas::dgemm(rows, columns, count, {a, count}, {b, count, true}, sums, columns);
    for (std::int64_t i = 0; i < rows * columns; ++i)
      totals[i] += static_cast<std::uint32_t>(static_cast<std::int64_t>(sums[i]));
  }
  auto* to = reinterpret_cast<std::uint32_t*>(result_) + row * weight_->n + column;
  for (std::int64_t i = 0; i < rows; ++i)
    std::copy_n(totals + i * columns, columns, to + i * weight_->n);
}

}  // namespace airlock
