#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <mutex>
#include <tuple>
#include <vector>

#include "proto/op.h"
#include "runtime/exact/int8_weights.h"

namespace airlock::testing {

/// Int8 weights as they came from a sink, row by row, and what integers make of them. take() on any
/// thread, the rest after the making.
class Int8Copy {
 public:
  Int8Sink sink() {
    return [this](const Int8Rows& rows) { return take(rows); };
  }
  Status take(const Int8Rows& rows) {
    const std::lock_guard lock(mutex_);
    auto& values = planes_[{rows.linear, rows.layer, rows.weight, rows.plane}];
    const auto at = static_cast<std::size_t>(rows.first_row * rows.columns);
    values.resize(std::max(values.size(), at + rows.values.size()));
    std::ranges::copy(rows.values, values.begin() + static_cast<std::ptrdiff_t>(at));
    return {};
  }
  /// [rows, columns] of one plane of a weight; `weight` is the linear's: 0 to 2.
  const std::vector<std::int8_t>& plane(Linear linear, std::uint16_t layer, std::size_t weight,
                                        std::uint8_t plane) const {
    return planes_.at({linear, layer, weight, plane});
  }
  std::size_t plane_count() const { return planes_.size(); }

 private:
  std::mutex mutex_;
  std::map<std::tuple<Linear, std::uint16_t, std::size_t, std::uint8_t>, std::vector<std::int8_t>>
      planes_;
};

/// Which of its linear's weights this is: 0 to 2.
inline std::size_t place_in_linear(WeightKind kind) {
  const auto kinds = kinds_of(linear_of(kind));
  return static_cast<std::size_t>(std::ranges::find(kinds, kind) - kinds.begin());
}

/// x [rows, k] times w [n, k], mod 2^32: naive sums.
inline std::vector<std::uint32_t> times_int8(const std::vector<std::uint32_t>& x,
                                             const std::vector<std::int8_t>& w, std::size_t k) {
  std::vector<std::uint32_t> results;
  results.reserve(x.size() / k * (w.size() / k));
  for (std::size_t row = 0; row < x.size(); row += k) {
    for (std::size_t column = 0; column < w.size(); column += k) {
      std::uint64_t sum = 0;
      for (std::size_t i = 0; i < k; ++i) {
        const std::int64_t term =
            std::int64_t{static_cast<std::int32_t>(x[row + i])} * w[column + i];
        sum += static_cast<std::uint64_t>(term);
      }
      results.push_back(static_cast<std::uint32_t>(sum));
    }
  }
  return results;
}

/// The results of an int_linear of these words [rows, k].
inline std::vector<std::vector<std::uint32_t>> int_linear_results_of(
    const Int8Copy& weights, const OpSpec& spec, const std::vector<std::uint32_t>& x,
    std::size_t k) {
  std::vector<std::vector<std::uint32_t>> results;
  const std::size_t count = std::max<std::size_t>(spec.weights.size(), 1);
  for (std::size_t i = 0; i < count; ++i) {
    const std::size_t place = spec.weights.empty() ? 0 : place_in_linear(spec.weights[i].kind);
    for (std::uint8_t plane = 0; plane < spec.planes; ++plane) {
      results.push_back(
          times_int8(x, weights.plane(linear_of(spec), layer_of(spec), place, plane), k));
    }
  }
  return results;
}

}  // namespace airlock::testing
