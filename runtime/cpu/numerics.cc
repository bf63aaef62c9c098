#include "runtime/cpu/numerics.h"

#include <algorithm>
#include <cstdint>
#include <vector>

#include "base/convert.h"
#include "base/int8_rows.h"

namespace airlock {

void hold_block(const Numerics& numerics, DType from, const std::byte* in, std::byte* out,
                std::size_t count) {
  constexpr std::size_t kBlock = 2048;
  float values[kBlock];
  alignas(4) std::byte rounded[kBlock * 2];
  const bool rounds_first = numerics.dtype != numerics.held && from != numerics.dtype;
  if (numerics.held == DType::kF32 && !rounds_first) {
    load_f32(from, in, reinterpret_cast<float*>(out), count);
    return;
  }
  for (std::size_t start = 0; start < count; start += kBlock) {
    const std::size_t n = std::min(kBlock, count - start);
    load_f32(from, in + start * dtype_bytes(from), values, n);
    if (rounds_first) {
      store_f32(numerics.dtype, values, rounded, n);
      load_f32(numerics.dtype, rounded, values, n);
    }
    store_f32(numerics.held, values, out + start * dtype_bytes(numerics.held), n);
  }
}

void hold_int8_rows(const Numerics& numerics, TensorView rows, std::byte* out) {
  const auto row_bytes = static_cast<std::size_t>(rows.desc.shape[1]);
  const auto width = static_cast<std::size_t>(wire_width(DType::kI8, rows.desc.shape[1]));
  std::vector<float> line(width);
  for (std::int64_t row = 0; row < rows.desc.shape[0]; ++row) {
    load_int8_row(rows.data + static_cast<std::size_t>(row) * row_bytes, width, line.data());
    hold_block(numerics, DType::kF32, reinterpret_cast<const std::byte*>(line.data()), out, width);
    out += width * dtype_bytes(numerics.held);
  }
}

void gather_rows(TensorView table, std::span<const std::int32_t> ids, MutableTensorView out) {
  const std::int64_t hidden = table.desc.shape[1];
  const std::size_t in_bytes = static_cast<std::size_t>(hidden) * dtype_bytes(table.desc.dtype);
  const std::size_t out_bytes = static_cast<std::size_t>(hidden) * dtype_bytes(out.desc.dtype);
  for (std::size_t token = 0; token < ids.size(); ++token) {
    const auto row = static_cast<std::size_t>(ids[token]);
    convert({table.data + row * in_bytes, {table.desc.dtype, Shape{hidden}}},
            {out.data + token * out_bytes, {out.desc.dtype, Shape{hidden}}});
  }
}

}  // namespace airlock
