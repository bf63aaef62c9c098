#include "tee_runner/privacy/quantise.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <limits>

#include "base/vectorize.h"
#include "proto/limits.h"

namespace airlock {

namespace {

__extension__ using Wide = unsigned __int128;

constexpr double kWraps = 0x1p31;  // a sum of this size no longer fits
constexpr std::uint64_t kWrapsAt = std::uint64_t{1} << 31;
constexpr std::size_t kMostColumns = std::size_t{1} << 20;
static_assert(limits::kMaxHidden <= kMostColumns && limits::kMaxIntermediate <= kMostColumns &&
              limits::kMaxHeads * limits::kMaxHeadDim <= kMostColumns);
constexpr double kMostUnits = 0x1p30;  // of any integer, whatever the weights: each fits an int32
constexpr int kTries = 16;
// What a first try that fails adds to s, in parts of s; each further one doubles it.
constexpr double kRaise = 0x1p-20;
// Sums run over so many lanes whatever the width of the vectors, which are added up in order.
constexpr std::size_t kLanes = 16;

/// Norms of x'.
struct Norms {
  double l1 = 0;
  double l2_squared = 0;
  double most = 0;
};

/// 2^-e for e in +-126.
inline float unfold(std::int8_t exponent) {
  return std::bit_cast<float>((127 - static_cast<std::int32_t>(exponent)) << 23);
}

AIRLOCK_VECTORIZE Norms norms_of(const float* x, const std::int8_t* exponents, std::size_t count) {
  double l1[kLanes] = {};
  double l2[kLanes] = {};
  std::int32_t most = 0;  // the bits of a size are in the order of sizes
  std::size_t start = 0;
  for (; start + kLanes <= count; start += kLanes) {
    for (std::size_t lane = 0; lane < kLanes; ++lane) {
      const float value = std::abs(x[start + lane] * unfold(exponents[start + lane]));
      const double wide = static_cast<double>(value);
      most = std::max(most, std::bit_cast<std::int32_t>(value));
      l1[lane] += wide;
      l2[lane] += wide * wide;
    }
  }
  for (std::size_t lane = 0; start + lane < count; ++lane) {
    const float value = std::abs(x[start + lane] * unfold(exponents[start + lane]));
    const double wide = static_cast<double>(value);
    most = std::max(most, std::bit_cast<std::int32_t>(value));
    l1[lane] += wide;
    l2[lane] += wide * wide;
  }
  Norms norms{.most = static_cast<double>(std::bit_cast<float>(most))};
  for (std::size_t lane = 0; lane < kLanes; ++lane) {
    norms.l1 += l1[lane];
    norms.l2_squared += l2[lane];
  }
  return norms;
}

AIRLOCK_VECTORIZE void round_row(const float* x, const std::int8_t* exponents, std::size_t count,
                                 float inverse, std::int32_t* out) {
  for (std::size_t j = 0; j < count; ++j)
    out[j] = static_cast<std::int32_t>(std::rint((x[j] * unfold(exponents[j])) * inverse));
}

/// The least s for which size / s + rounding stays below 2^31 / weight; rounding is what half a
/// unit an element adds to the norm.
double least_scale(double size, double rounding, double weight) {
  const double room = kWraps / weight - rounding;
  return room > 0 ? size / room : std::numeric_limits<double>::infinity();
}

double bound_of(const Norms& norms, const Int8Linear& linear) {
  const auto columns = static_cast<double>(linear.columns);
  return std::min({
      least_scale(norms.most, 0.5, static_cast<double>(linear.most_l1)),
      least_scale(std::sqrt(norms.l2_squared), 0.5 * std::sqrt(columns),
                  std::sqrt(static_cast<double>(linear.most_l2_squared))),
      least_scale(norms.l1, 0.5 * columns, static_cast<double>(linear.most_abs)),
  });
}

/// In fp32, not below it, and such that 1 / s is a number.
float round_up(double scale) {
  const auto near = static_cast<float>(scale);
  const float up = static_cast<double>(near) < scale
                       ? std::nextafter(near, std::numeric_limits<float>::infinity())
                       : near;
  return std::max(up, std::numeric_limits<float>::min());
}

struct IntegerNorms {
  std::uint64_t most = 0;
  std::uint64_t l1 = 0;
  Wide l2_squared = 0;
};

AIRLOCK_VECTORIZE IntegerNorms integer_norms(const std::int32_t* row, std::size_t count) {
  // The halves of the squares apart, so that neither sum wraps below 2^32 elements.
  std::uint64_t l1 = 0;
  std::uint64_t low = 0;
  std::uint64_t high = 0;
  std::uint32_t most = 0;
  for (std::size_t j = 0; j < count; ++j) {
    const std::uint32_t size =
        row[j] < 0 ? 0U - static_cast<std::uint32_t>(row[j]) : static_cast<std::uint32_t>(row[j]);
    const std::uint64_t square = std::uint64_t{size} * size;
    most = std::max(most, size);
    l1 += size;
    low += square & 0xffffffffU;
    high += square >> 32;
  }
  return {most, l1, (Wide{high} << 32) + low};
}

}  // namespace

void quantise_at(std::span<const float> x, std::span<const std::int8_t> exponents, float scale,
                 std::span<std::int32_t> out) {
  CHECK(exponents.size() == x.size() && out.size() == x.size());
  round_row(x.data(), exponents.data(), x.size(), 1.0F / scale, out.data());
}

bool wraps_nowhere(std::span<const std::int32_t> row, const Int8Linear& linear) {
  const IntegerNorms norms = integer_norms(row.data(), row.size());
  const auto below = [](Wide a, std::int64_t b, Wide limit) {
    // The product of both might not fit; the quotient always does.
    return b == 0 || a <= (limit - 1) / static_cast<Wide>(b);
  };
  return below(norms.most, linear.most_l1, kWrapsAt) ||
         below(norms.l1, linear.most_abs, kWrapsAt) ||
         below(norms.l2_squared, linear.most_l2_squared, Wide{kWrapsAt} * kWrapsAt);
}

Result<float> quantise_row(std::span<const float> x, const Int8Linear& linear,
                           std::span<std::int32_t> out) {
  const std::size_t columns = x.size();
  CHECK(static_cast<std::int64_t>(columns) == linear.columns && out.size() == columns);
  CHECK(linear.column_exponents.size() == columns && columns <= kMostColumns);
  const Norms norms = norms_of(x.data(), linear.column_exponents.data(), columns);
  if (!std::isfinite(norms.l1)) return Status(StatusCode::kInternal, "activations are not finite");
  if (norms.most == 0) {
    std::fill(out.begin(), out.end(), 0);
    return 1.0F;
  }
  const double mean = norms.l1 / static_cast<double>(columns);
  const double units = linear.planes > 1 ? kMeanUnitsOfTwoPlanes : kMeanUnits;
  double wanted = std::max({static_cast<double>(static_cast<float>(mean / units)),
                            bound_of(norms, linear), norms.most / kMostUnits});
  for (int tried = 0; tried < kTries && std::isfinite(wanted); ++tried) {
    const float scale = round_up(wanted);
    quantise_at(x, linear.column_exponents, scale, out);
    if (wraps_nowhere(out, linear)) return scale;
    wanted = static_cast<double>(scale) * (1 + std::ldexp(kRaise, tried));
  }
  return Status(StatusCode::kInternal,
                "no scale keeps the sums of a row of activations from "
                "wrapping");
}

AIRLOCK_VECTORIZE void dequantise_row(std::span<const std::int32_t> first,
                                      std::span<const std::int32_t> second, float scale,
                                      std::span<const float> scales, std::span<float> out) {
  CHECK(scales.size() == first.size() && out.size() == first.size());
  const std::size_t rows = first.size();
  if (second.empty()) {
    for (std::size_t i = 0; i < rows; ++i)
      out[i] = static_cast<float>(first[i]) * (scale * scales[i]);
    return;
  }
  CHECK(second.size() == rows);
  for (std::size_t i = 0; i < rows; ++i) {
    const double sum = static_cast<double>(first[i]) + static_cast<double>(second[i]) / kPlaneRatio;
    out[i] = static_cast<float>(sum) * (scale * scales[i]);
  }
}

}  // namespace airlock
