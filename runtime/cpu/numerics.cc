#include "runtime/cpu/numerics.h"

#include <algorithm>
#include <cstdint>

#include "base/convert.h"

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
