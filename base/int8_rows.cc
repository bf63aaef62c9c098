#include "base/int8_rows.h"

#include <algorithm>
#include <cstring>

#include "base/vectorize.h"

namespace airlock {

AIRLOCK_VECTORIZE void load_int8_row(const std::byte* row, std::size_t width, float* out) {
  float scale = 0;
  std::memcpy(&scale, row + width, sizeof(scale));
  const auto* numbers = reinterpret_cast<const std::int8_t*>(row);
  for (std::size_t i = 0; i < width; ++i) out[i] = static_cast<float>(numbers[i]) * scale;
}

AIRLOCK_VECTORIZE void store_int8_row(const float* in, std::size_t width, std::byte* row) {
  std::uint32_t largest = 0;
  for (std::size_t i = 0; i < width; ++i) largest = std::max(largest, magnitude_bits(in[i]));
  const Int8Rounding rounding = int8_rounding(largest);
  auto* numbers = reinterpret_cast<std::int8_t*>(row);
  for (std::size_t i = 0; i < width; ++i) numbers[i] = round_to_int8(in[i], rounding.inverse);
  std::memcpy(row + width, &rounding.scale, sizeof(rounding.scale));
}

TensorDesc widened(const TensorDesc& rows) {
  CHECK(rows.dtype == DType::kI8 && rows.shape.rank() == 2 && rows.shape[1] > kScaleBytes);
  return {DType::kF32, Shape{rows.shape[0], wire_width(DType::kI8, rows.shape[1])}};
}

void load_int8_rows(TensorView rows, MutableTensorView values) {
  CHECK(values.desc == widened(rows.desc));
  const auto width = static_cast<std::size_t>(values.desc.shape[1]);
  const auto row_bytes = static_cast<std::size_t>(rows.desc.shape[1]);
  for (std::size_t row = 0; row < static_cast<std::size_t>(rows.desc.shape[0]); ++row) {
    load_int8_row(rows.data + row * row_bytes, width,
                  reinterpret_cast<float*>(values.data) + row * width);
  }
}

void store_int8_rows(TensorView values, MutableTensorView rows) {
  CHECK(values.desc == widened(rows.desc));
  const auto width = static_cast<std::size_t>(values.desc.shape[1]);
  const auto row_bytes = static_cast<std::size_t>(rows.desc.shape[1]);
  for (std::size_t row = 0; row < static_cast<std::size_t>(rows.desc.shape[0]); ++row) {
    store_int8_row(reinterpret_cast<const float*>(values.data) + row * width, width,
                   rows.data + row * row_bytes);
  }
}

}  // namespace airlock
