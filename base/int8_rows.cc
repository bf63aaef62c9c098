#include "base/int8_rows.h"

#include <algorithm>
#include <cstring>

#include "base/float_bits.h"
#include "base/vectorize.h"

namespace airlock {

namespace {

constexpr auto kBlock = static_cast<std::size_t>(kInt8Block);

/// `count` numbers and their scale. Inlined, so that each of its callers' instruction sets has it.
[[gnu::always_inline]] inline const std::byte* load_block(const std::byte* block, std::size_t count,
                                                          float* out) {
  std::uint16_t scale_bits = 0;
  std::memcpy(&scale_bits, block + count, sizeof(scale_bits));
  const float scale = f32_from_bf16(scale_bits);
  const auto* numbers = reinterpret_cast<const std::int8_t*>(block);
  for (std::size_t i = 0; i < count; ++i) out[i] = static_cast<float>(numbers[i]) * scale;
  return block + count + sizeof(scale_bits);
}

[[gnu::always_inline]] inline std::byte* store_block(const float* in, std::size_t count,
                                                     std::byte* block) {
  std::uint32_t largest = 0;
  for (std::size_t i = 0; i < count; ++i) largest = std::max(largest, magnitude_bits(in[i]));
  const Int8Rounding rounding = int8_rounding(largest);
  auto* numbers = reinterpret_cast<std::int8_t*>(block);
  for (std::size_t i = 0; i < count; ++i) numbers[i] = round_to_int8(in[i], rounding.inverse);
  std::memcpy(block + count, &rounding.scale, sizeof(rounding.scale));
  return block + count + sizeof(rounding.scale);
}

}  // namespace

AIRLOCK_VECTORIZE void load_int8_row(const std::byte* row, std::size_t width, float* out) {
  std::size_t first = 0;
  for (; first + kBlock <= width; first += kBlock) row = load_block(row, kBlock, out + first);
  if (first < width) load_block(row, width - first, out + first);
}

AIRLOCK_VECTORIZE void store_int8_row(const float* in, std::size_t width, std::byte* row) {
  std::size_t first = 0;
  for (; first + kBlock <= width; first += kBlock) row = store_block(in + first, kBlock, row);
  if (first < width) store_block(in + first, width - first, row);
}

TensorDesc widened(const TensorDesc& rows) {
  CHECK(rows.dtype == DType::kI8 && rows.shape.rank() == 2);
  const std::int64_t width = wire_width(DType::kI8, rows.shape[1]);
  CHECK(width > 0 && wire_columns(DType::kI8, width) == rows.shape[1]);
  return {DType::kF32, Shape{rows.shape[0], width}};
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
