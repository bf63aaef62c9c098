#pragma once

#include <cstdint>
#include <string>

/// Internal to runtime/cpu: products of fp64 by BLIS, on the thread that calls. Any thread, several
/// at once. BLIS ends the process where malloc() has no memory for what it packs, 10 MiB a thread.
namespace airlock::blas {

/// "BLIS 0.9.0".
std::string name();

/// A matrix by rows, `stride` elements from one to the next.
struct Matrix {
  const double* data = nullptr;
  std::int64_t stride = 0;
  bool is_transposed = false;  // it lies as its transpose
};

/// c [m, n], rows `c_stride` apart, = a [m, k] b [k, n]. Its bits depend on the shapes and the
/// elements alone. What c holds before is not read.
void dgemm(std::int64_t m, std::int64_t n, std::int64_t k, const Matrix& a, const Matrix& b,
           double* c, std::int64_t c_stride);

}  // namespace airlock::blas
