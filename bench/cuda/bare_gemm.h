#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "base/dtype.h"

namespace airlock::bench {

/// A product in row-major terms: c [batch][m, n] = a [batch][m, k] times b [batch][n, k]^T, or
/// b [batch][k, n] where b lies as it is multiplied. Operands of kU8 are int8, the result kI32.
struct Product {
  std::int64_t batch = 1;
  std::int64_t m = 0;
  std::int64_t n = 0;
  std::int64_t k = 0;
  bool b_transposed = true;
  DType operands = DType::kBF16;
  DType result = DType::kBF16;
  double flop() const { return 2.0 * static_cast<double>(batch * m * n * k); }
};

struct BareTimes {
  std::vector<double> alone_ns;  // each call between two events of its own
  double in_a_row_ns = 0;        // calls one after the other, the mean
};

/// The product by one cuBLAS call on device memory, nothing else: what a call can cost at best.
/// Nothing where its operands find no room on the device; ends the process where CUDA fails else.
std::optional<BareTimes> time_bare(const Product& product, int calls, std::size_t workspace_bytes);

}  // namespace airlock::bench
