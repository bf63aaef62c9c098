#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/tensor.h"

namespace airlock {

/// Weights and operands are rounded to `dtype` and held, and multiplied, as `held`: the same type,
/// or kF32 where the CPU does not multiply `dtype` itself. Accumulation is fp32 in any case.
struct Numerics {
  DType dtype = DType::kF32;
  DType held = DType::kF32;  // kF32 or kBF16

  /// Values of `from` can be multiplied where they lie.
  bool takes(DType from) const { return from == held && dtype == held; }
  /// oneDNN writes `result` itself; else it writes fp32, which is then rounded.
  bool writes(DType result) const { return result == DType::kF32 || result == held; }
};

/// Rounds `count` elements of `from` to numerics.dtype and writes them as numerics.held; reads each
/// once.
void hold_block(const Numerics& numerics, DType from, const std::byte* in, std::byte* out,
                std::size_t count);
/// The same of int8 rows, the numbers alone, dense.
void hold_int8_rows(const Numerics& numerics, TensorView rows, std::byte* out);
/// Rows of `table` [vocab, hidden], converted to out's type [ids, hidden]; every id lies in the
/// table.
void gather_rows(TensorView table, std::span<const std::int32_t> ids, MutableTensorView out);

}  // namespace airlock
