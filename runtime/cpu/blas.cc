#include "runtime/cpu/blas.h"

#include <cblas.h>

#include <cstddef>
#include <mutex>
#include <string_view>

namespace airlock::blas {

namespace {

/// Once, before anything else is asked of it. A build without threads has no locks either: products
/// at the same time get the same buffer from it, and come out wrong. Which build the system's
/// loader found, and not which one this was linked with, decides.
bool is_sequential() {
  static const bool sequential = [] {
    openblas_set_num_threads(1);
    return openblas_get_parallel() == OPENBLAS_SEQUENTIAL;
  }();
  return sequential;
}

}  // namespace

std::string name() {
  // "OpenBLAS 0.3.21 DYNAMIC_ARCH ..."
  const std::string_view config = openblas_get_config();
  const std::size_t end = config.find(' ', config.find(' ') + 1);
  std::string name(config.starts_with("OpenBLAS ") ? config.substr(0, end) : "OpenBLAS");
  if (is_sequential()) name += " (sequential)";
  return name;
}

void dgemm(std::int64_t m, std::int64_t n, std::int64_t k, const Matrix& a, const Matrix& b,
           double* c, std::int64_t c_stride) {
  static std::mutex turn;
  std::unique_lock lock(turn, std::defer_lock);
  if (is_sequential()) lock.lock();
  const auto number = [](std::int64_t value) { return static_cast<blasint>(value); };
  const auto how = [](const Matrix& x) { return x.is_transposed ? CblasTrans : CblasNoTrans; };
  cblas_dgemm(CblasRowMajor, how(a), how(b), number(m), number(n), number(k), 1.0, a.data,
              number(a.stride), b.data, number(b.stride), 0.0, c, number(c_stride));
}

}  // namespace airlock::blas
