#include "runtime/cpu/blas.h"

#include <blis.h>

#include <array>

namespace airlock::blas {

namespace {

/// The steps from a row to the next, and from a column to the next.
std::array<inc_t, 2> steps(const Matrix& x) {
  if (x.is_transposed) return {1, x.stride};
  return {x.stride, 1};
}

/// Threads are ours. A build of BLIS with its own would take as many as its environment says.
void use_one_thread() {
  static const bool once = [] {
    bli_thread_set_num_threads(1);
    return true;
  }();
  static_cast<void>(once);
}

}  // namespace

std::string name() { return std::string("BLIS ") + bli_info_get_version_str(); }

void dgemm(std::int64_t m, std::int64_t n, std::int64_t k, const Matrix& a, const Matrix& b,
           double* c, std::int64_t c_stride) {
  use_one_thread();
  double one = 1;
  double zero = 0;
  const auto [a_row, a_column] = steps(a);
  const auto [b_row, b_column] = steps(b);
  // BLIS's pointers are not const, and it reads these.
  bli_dgemm(BLIS_NO_TRANSPOSE, BLIS_NO_TRANSPOSE, m, n, k, &one, const_cast<double*>(a.data), a_row,
            a_column, const_cast<double*>(b.data), b_row, b_column, &zero, c, c_stride, 1);
}

}  // namespace airlock::blas
