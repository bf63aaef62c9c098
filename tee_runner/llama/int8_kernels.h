#pragma once

#include <cstdint>

#include "base/tensor.h"
#include "base/thread_pool.h"

namespace airlock {

/// Kernels of the trusted side over int8 rows (base/int8_rows.h): each row is widened to fp32,
/// computed as kernels.h says and rounded. A row's bits do not depend on the threads.
/// Rows may lie in memory that the peer can change: each byte is read once, and a scale may be any
/// float. Shapes are the caller's own (CHECKed).

/// As rms_norm(); out int8 [rows, wire_columns()].
void rms_norm_int8(ThreadPool& pool, const Tensor& hidden, std::int64_t first_row,
                   const float* weight, double epsilon, MutableTensorView out);
/// As silu_multiply(); all three int8.
void silu_multiply_int8(ThreadPool& pool, TensorView gate, TensorView up, MutableTensorView out);
/// As add_residual(); delta int8.
void add_residual_int8(ThreadPool& pool, TensorView delta, std::int64_t first_row, Tensor& hidden);

/// `rows` of any type that crosses, as fp32 [rows, width].
void widen_rows(ThreadPool& pool, TensorView rows, MutableTensorView values);

/// Rows for a kernel that takes floats: themselves, or of int8 a copy in fp32.
class FloatRows {
 public:
  /// `rows` outlives it.
  FloatRows(ThreadPool& pool, TensorView rows);
  TensorView view() const { return view_; }

 private:
  Tensor copy_;
  TensorView view_;
};

/// Where such a kernel writes: the rows themselves, or of int8 private memory until finish().
class FloatRowsOut {
 public:
  /// `rows` outlives it.
  explicit FloatRowsOut(MutableTensorView rows);
  MutableTensorView view() const { return view_; }
  void finish(ThreadPool& pool);

 private:
  Tensor copy_;
  MutableTensorView rows_;
  MutableTensorView view_;
};

}  // namespace airlock
