#include "runtime/exact/int8_rule.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "base/check.h"
#include "base/vectorize.h"
#include "runtime/exact/int8_weights.h"

namespace airlock::int8_rule {

namespace {

constexpr int kMostExponent = 30;
// So many squares of an int8 fit an int32.
constexpr std::size_t kSquaresPerSum = std::size_t{1} << 16;
// Their sums run side by side, each in the order of its columns.
constexpr std::size_t kRowsAtOnce = 8;

constexpr std::int64_t floor_div(std::int64_t value, std::int64_t by) {
  return value >= 0 ? value / by : -((-value + by - 1) / by);
}

/// Also of what is no number, which a file that changes under its reader may hold.
inline double clamp_most(double value) {
  constexpr double kMost = kInt8Most;
  return value > kMost ? kMost : (value >= -kMost ? value : -kMost);
}

}  // namespace

std::vector<std::int8_t> column_exponents(std::span<const double> column_sizes,
                                          std::span<const double> column_squares,
                                          std::int64_t rows) {
  CHECK(column_sizes.size() == column_squares.size());
  std::vector<std::int64_t> exponents(column_sizes.size());
  std::int64_t sum = 0;
  std::int64_t count = 0;
  for (std::size_t j = 0; j < exponents.size(); ++j) {
    const double rms = std::sqrt(column_squares[j] / static_cast<double>(rows));
    const double ratio = column_sizes[j] / rms;
    if (column_sizes[j] == 0 || rms == 0 || !std::isfinite(ratio)) continue;
    // round(log2(ratio) / 2) is the largest e with 2^(2e - 1) <= ratio, and frexp is exact.
    int power = 0;
    std::frexp(ratio, &power);
    exponents[j] = floor_div(power, 2);
    sum += exponents[j];
    ++count;
  }
  const std::int64_t mean = count > 0 ? floor_div(2 * sum + count, 2 * count) : 0;
  std::vector<std::int8_t> result(exponents.size());
  for (std::size_t j = 0; j < result.size(); ++j) {
    const std::int64_t exponent = exponents[j] - mean;
    result[j] =
        static_cast<std::int8_t>(std::clamp<std::int64_t>(exponent, -kMostExponent, kMostExponent));
  }
  return result;
}

AIRLOCK_VECTORIZE void add_column_squares(const float* rows, std::size_t row_count,
                                          std::size_t pitch, std::size_t count, double* sums) {
  std::size_t row = 0;
  // Four rows a sweep, and still one after the other.
  for (; row + 4 <= row_count; row += 4) {
    const float* at = rows + row * pitch;
    for (std::size_t j = 0; j < count; ++j) {
      const double a = static_cast<double>(at[j]);
      const double b = static_cast<double>(at[pitch + j]);
      const double c = static_cast<double>(at[2 * pitch + j]);
      const double d = static_cast<double>(at[3 * pitch + j]);
      sums[j] = (((sums[j] + a * a) + b * b) + c * c) + d * d;
    }
  }
  for (; row < row_count; ++row) {
    const float* at = rows + row * pitch;
    for (std::size_t j = 0; j < count; ++j) {
      const double a = static_cast<double>(at[j]);
      sums[j] += a * a;
    }
  }
}

void row_squares(const float* rows, std::size_t row_count, std::size_t columns,
                 const double* factors, double* out) {
  std::size_t row = 0;
  for (; row + kRowsAtOnce <= row_count; row += kRowsAtOnce) {
    const float* at = rows + row * columns;
    double sums[kRowsAtOnce] = {};
    for (std::size_t j = 0; j < columns; ++j) {
      for (std::size_t r = 0; r < kRowsAtOnce; ++r) {
        const double value = static_cast<double>(at[r * columns + j]) * factors[j];
        sums[r] += value * value;
      }
    }
    std::copy_n(sums, kRowsAtOnce, out + row);
  }
  for (; row < row_count; ++row) {
    const float* at = rows + row * columns;
    double sum = 0;
    for (std::size_t j = 0; j < columns; ++j) {
      const double value = static_cast<double>(at[j]) * factors[j];
      sum += value * value;
    }
    out[row] = sum;
  }
}

AIRLOCK_VECTORIZE double largest(const float* row, const double* folds, std::size_t columns) {
  // Numbers without a sign are in the order of their bits, and what is no number lies above them.
  std::int64_t most = 0;
  for (std::size_t j = 0; j < columns; ++j) {
    const double value = std::abs(static_cast<double>(row[j]) * folds[j]);
    most = std::max(most, std::bit_cast<std::int64_t>(value));
  }
  return std::bit_cast<double>(most);
}

AIRLOCK_VECTORIZE void round_row(const float* row, const double* folds, std::size_t columns,
                                 float scale, std::int8_t* plane) {
  const double unit = static_cast<double>(scale);
  for (std::size_t j = 0; j < columns; ++j) {
    const double value = static_cast<double>(row[j]) * folds[j];
    plane[j] = static_cast<std::int8_t>(static_cast<int>(clamp_most(std::rint(value / unit))));
  }
}

AIRLOCK_VECTORIZE void round_rest(const float* row, const double* folds, std::size_t columns,
                                  float scale, const std::int8_t* first, std::int8_t* second) {
  const double unit = static_cast<double>(scale);
  const double rest_unit = unit / kPlaneRatio;
  for (std::size_t j = 0; j < columns; ++j) {
    const double value = static_cast<double>(row[j]) * folds[j];
    const double rest = value - unit * static_cast<double>(first[j]);
    second[j] = static_cast<std::int8_t>(static_cast<int>(clamp_most(std::rint(rest / rest_unit))));
  }
}

AIRLOCK_VECTORIZE RowNorms norms_of(const std::int8_t* row, std::size_t columns) {
  RowNorms norms;
  for (std::size_t start = 0; start < columns; start += kSquaresPerSum) {
    const std::size_t end = std::min(columns, start + kSquaresPerSum);
    std::int32_t l1 = 0;
    std::int32_t l2 = 0;
    std::int32_t most = 0;
    for (std::size_t j = start; j < end; ++j) {
      const std::int32_t value = row[j];
      const std::int32_t size = value < 0 ? -value : value;
      l1 += size;
      l2 += size * size;
      most = most < size ? size : most;
    }
    norms.l1 += l1;
    norms.l2_squared += l2;
    norms.most = std::max<std::int64_t>(norms.most, most);
  }
  return norms;
}

}  // namespace airlock::int8_rule
