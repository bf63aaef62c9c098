#include "base/convert.h"

#include <algorithm>
#include <cstring>

#include "base/float_bits.h"
#include "base/vectorize.h"

namespace airlock {

AIRLOCK_VECTORIZE void load_f32(DType dtype, const std::byte* in, float* out, std::size_t count) {
  CHECK(is_model_float(dtype));
  const auto* halves = reinterpret_cast<const std::uint16_t*>(in);
  if (dtype == DType::kF32) {
    std::memcpy(out, in, count * sizeof(float));
  } else if (dtype == DType::kBF16) {
    for (std::size_t i = 0; i < count; ++i) out[i] = f32_from_bf16(halves[i]);
  } else {
    for (std::size_t i = 0; i < count; ++i) out[i] = f32_from_f16(halves[i]);
  }
}

AIRLOCK_VECTORIZE void store_f32(DType dtype, const float* in, std::byte* out, std::size_t count) {
  CHECK(is_model_float(dtype));
  auto* halves = reinterpret_cast<std::uint16_t*>(out);
  if (dtype == DType::kF32) {
    std::memcpy(out, in, count * sizeof(float));
  } else if (dtype == DType::kBF16) {
    for (std::size_t i = 0; i < count; ++i) halves[i] = bf16_from_f32(in[i]);
  } else {
    for (std::size_t i = 0; i < count; ++i) halves[i] = f16_from_f32(in[i]);
  }
}

void convert(TensorView in, MutableTensorView out) {
  const std::size_t count = in.desc.elements();
  CHECK(count == out.desc.elements());
  if (in.desc.dtype == out.desc.dtype) {
    std::memcpy(out.data, in.data, in.desc.bytes());
    return;
  }
  constexpr std::size_t kBlock = 1024;
  float block[kBlock];
  for (std::size_t start = 0; start < count; start += kBlock) {
    const std::size_t n = std::min(kBlock, count - start);
    load_f32(in.desc.dtype, in.data + start * dtype_bytes(in.desc.dtype), block, n);
    store_f32(out.desc.dtype, block, out.data + start * dtype_bytes(out.desc.dtype), n);
  }
}

}  // namespace airlock
