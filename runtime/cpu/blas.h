#pragma once

#include <cstdint>
#include <string>

/// Internal to runtime/cpu: OpenBLAS, on the thread that calls. Any thread, several at once.
namespace airlock::blas {

/// "OpenBLAS 0.3.21", and " (sequential)" where only one product is computed at a time. From the
/// first call of this or dgemm() on OpenBLAS makes no threads of its own.
std::string name();

/// A matrix by rows, `stride` elements from one to the next.
struct Matrix {
  const double* data = nullptr;
  std::int64_t stride = 0;
  bool is_transposed = false;  // it lies as its transpose
};

/// c [m, n], rows `c_stride` apart, = a [m, k] b [k, n].
void dgemm(std::int64_t m, std::int64_t n, std::int64_t k, const Matrix& a, const Matrix& b,
           double* c, std::int64_t c_stride);

}  // namespace airlock::blas
