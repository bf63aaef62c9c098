#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

#include "base/dtype.h"
#include "base/tensor.h"

/// Numbers that cross as int8: a row of `width` numbers is blocks of kInt8Block numbers, the last
/// one perhaps shorter, each with its scale behind it, a bf16 (little-endian, of any alignment). A
/// number is its int8 times its block's scale. Columns from one multiple of kInt8Block to another
/// are rows by themselves. Why: docs/adr/0028-int8-rows.md.
namespace airlock {

inline constexpr std::int64_t kInt8Block = 32;
inline constexpr std::int64_t kScaleBytes = 2;

/// Where number `column` of a row lies, in bytes from the row's first.
constexpr std::int64_t int8_place(std::int64_t column) {
  return column + column / kInt8Block * kScaleBytes;
}
/// Blocks of a row, the last one perhaps shorter, and how many numbers the one from `first` on has.
constexpr std::int64_t int8_blocks(std::int64_t width) {
  return (width + kInt8Block - 1) / kInt8Block;
}
constexpr std::int64_t int8_block_size(std::int64_t width, std::int64_t first) {
  return width - first < kInt8Block ? width - first : kInt8Block;
}
/// Columns of a tensor that holds `width` numbers a row.
constexpr std::int64_t wire_columns(DType dtype, std::int64_t width) {
  return dtype == DType::kI8 ? width + int8_blocks(width) * kScaleBytes : width;
}
/// The other way round: numbers a row of a tensor with so many columns.
constexpr std::int64_t wire_width(DType dtype, std::int64_t columns) {
  constexpr std::int64_t kBytes = kInt8Block + kScaleBytes;
  return dtype == DType::kI8 ? columns - (columns + kBytes - 1) / kBytes * kScaleBytes : columns;
}

/// How a block is rounded. constexpr and by bits, so that C++ compilers vectorise loops over it and
/// nvcc takes it in kernels; the only arithmetic is a division, or a multiplication, that nothing
/// can be contracted with: the same bits everywhere.
struct Int8Rounding {
  // What crosses, a bf16: the largest magnitude / 127, rounded up; 0, or NaN.
  std::uint16_t scale = 0;
  float inverse = 0;  // what numbers are multiplied by; 0 where all of them become 0
};

/// The bits of |value|: those of a block's largest are the largest, as integers too.
constexpr std::uint32_t magnitude_bits(float value) {
  return std::bit_cast<std::uint32_t>(value) & 0x7fffffffU;
}

/// Of a block whose largest magnitude has these bits. One that holds NaN or infinity is NaN as a
/// whole; one of zeros, or whose scale is no normal float (largest below 1.5e-36), is zeros.
constexpr Int8Rounding int8_rounding(std::uint32_t largest_bits) {
  if (largest_bits >= 0x7f800000U) return {0x7fc0, 0};
  const auto bits = std::bit_cast<std::uint32_t>(std::bit_cast<float>(largest_bits) / 127.0F);
  if (bits < 0x00800000U) return {0, 0};
  const std::uint32_t up = (bits + 0xffffU) >> 16;
  return {static_cast<std::uint16_t>(up), 1.0F / std::bit_cast<float>(up << 16)};
}

/// value * inverse to the nearest integer, to even where two are. |value * inverse| < 127.5, or
/// inverse is 0.
constexpr std::int8_t round_to_int8(float value, float inverse) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value * inverse);
  const std::uint32_t exponent = (bits >> 23) & 0xffU;
  const std::uint32_t digits = (bits & 0x7fffffU) | 0x800000U;
  // The product is digits * 2^(exponent - 150). 26 makes 0 of what is below a quarter, and of NaN.
  const std::uint32_t places = exponent > 124 ? 150 - exponent : 26;
  const std::uint32_t shift = places > 26 ? 26 : places;
  const std::uint32_t half = (1U << shift) >> 1;
  const std::uint32_t rounded = (digits + half - 1 + ((digits >> shift) & 1U)) >> shift;
  const auto magnitude = static_cast<std::int32_t>(rounded & 0x7fU);
  return static_cast<std::int8_t>((bits >> 31) != 0 ? -magnitude : magnitude);
}

/// `row` holds `width` numbers and their scales, which may be any floats; each byte is read once.
/// Vectorised; the same bits on every CPU.
void load_int8_row(const std::byte* row, std::size_t width, float* out);
void store_int8_row(const float* in, std::size_t width, std::byte* row);

/// fp32 [rows, width] for int8 rows, whose columns wire_columns() gives (CHECKed).
TensorDesc widened(const TensorDesc& rows);
/// Whole tensors: `rows` int8, the other as widened() says (CHECKed).
void load_int8_rows(TensorView rows, MutableTensorView values);
void store_int8_rows(TensorView values, MutableTensorView rows);

/// Rows [first, first + count) of a matrix.
template <typename View>
View rows_of(const View& all, std::int64_t first, std::int64_t count) {
  const std::size_t row_bytes =
      static_cast<std::size_t>(all.desc.shape[1]) * dtype_bytes(all.desc.dtype);
  return {all.data + static_cast<std::size_t>(first) * row_bytes,
          {all.desc.dtype, Shape{count, all.desc.shape[1]}}};
}

}  // namespace airlock
