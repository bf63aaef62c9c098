#pragma once

#include <cstdint>

#include "base/dtype.h"
#include "base/float_bits.h"
#include "base/int8_rows.h"

/// What a kernel does with one element. constexpr functions: nvcc takes them in kernels
/// (--expt-relaxed-constexpr), a host compiler anywhere, so that all but the grid loops runs
/// without a GPU.
namespace airlock::cuda {

/// Element `index` of fp32, fp16 or bf16 numbers at `data`, as fp32.
constexpr float load_element(const void* data, DType dtype, std::int64_t index) {
  if (dtype == DType::kF32) return static_cast<const float*>(data)[index];
  const std::uint16_t bits = static_cast<const std::uint16_t*>(data)[index];
  return dtype == DType::kBF16 ? f32_from_bf16(bits) : f32_from_f16(bits);
}

/// As load_element(), rounded once to nearest even.
constexpr void store_element(void* data, DType dtype, std::int64_t index, float value) {
  if (dtype == DType::kF32) {
    static_cast<float*>(data)[index] = value;
  } else {
    static_cast<std::uint16_t*>(data)[index] =
        dtype == DType::kBF16 ? bf16_from_f32(value) : f16_from_f32(value);
  }
}

/// Numbers of one type to another, row by row.
struct Conversion {
  const void* in = nullptr;  // [rows, columns], rows in_pitch elements apart
  DType from = DType::kF32;
  std::int64_t in_pitch = 0;
  void* out = nullptr;  // [rows, columns], dense
  DType to = DType::kF32;
  std::int64_t rows = 0;
  std::int64_t columns = 0;

  constexpr std::int64_t count() const { return rows * columns; }
};

/// Element `index` of the result.
constexpr void convert_element(const Conversion& job, std::int64_t index) {
  const std::int64_t row = index / job.columns;
  const std::int64_t column = index - row * job.columns;
  store_element(job.out, job.to, index,
                load_element(job.in, job.from, row * job.in_pitch + column));
}

/// Int8 rows (base/int8_rows.h) to numbers of one type.
struct WidenRows {
  const std::uint8_t* in = nullptr;  // [rows, wire_columns()], dense
  void* out = nullptr;               // [rows, columns], dense
  DType to = DType::kF32;
  std::int64_t rows = 0;
  std::int64_t columns = 0;

  constexpr std::int64_t count() const { return rows * columns; }
};

constexpr void widen_element(const WidenRows& job, std::int64_t index) {
  const std::int64_t row = index / job.columns;
  const std::int64_t column = index - row * job.columns;
  const std::int64_t first = column / kInt8Block * kInt8Block;
  const std::uint8_t* const in = job.in + row * wire_columns(DType::kI8, job.columns);
  // Which lies at any address.
  const std::uint8_t* const scale = in + int8_place(first) + int8_block_size(job.columns, first);
  const auto bits = static_cast<std::uint16_t>(scale[0] | scale[1] << 8);
  const auto number = static_cast<std::int8_t>(in[int8_place(column)]);
  store_element(job.out, job.to, index, static_cast<float>(number) * f32_from_bf16(bits));
}

/// fp32 to int8 rows. An element is a block of them.
struct RoundRows {
  const float* in = nullptr;  // [rows, columns], rows in_pitch elements apart
  std::int64_t in_pitch = 0;
  std::uint8_t* out = nullptr;  // [rows, wire_columns()], dense
  std::int64_t rows = 0;
  std::int64_t columns = 0;

  constexpr std::int64_t blocks() const { return int8_blocks(columns); }
  constexpr std::int64_t count() const { return rows * blocks(); }
};

constexpr void round_block(const RoundRows& job, std::int64_t index) {
  const std::int64_t row = index / job.blocks();
  const std::int64_t first = (index - row * job.blocks()) * kInt8Block;
  const std::int64_t count = int8_block_size(job.columns, first);
  const float* const in = job.in + row * job.in_pitch + first;
  std::uint8_t* const out =
      job.out + row * wire_columns(DType::kI8, job.columns) + int8_place(first);
  std::uint32_t largest = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    const std::uint32_t bits = magnitude_bits(in[i]);
    largest = largest < bits ? bits : largest;
  }
  const Int8Rounding rounding = int8_rounding(largest);
  for (std::int64_t i = 0; i < count; ++i)
    out[i] = static_cast<std::uint8_t>(round_to_int8(in[i], rounding.inverse));
  out[count] = static_cast<std::uint8_t>(rounding.scale & 0xffU);
  out[count + 1] = static_cast<std::uint8_t>(rounding.scale >> 8);
}

/// Rows of a table, by number.
struct Gather {
  const void* table = nullptr;  // [vocab, hidden]
  DType from = DType::kF32;
  const std::int32_t* ids = nullptr;  // [tokens], each in [0, vocab): checked before
  void* out = nullptr;                // [tokens, hidden]
  DType to = DType::kF32;
  std::int64_t tokens = 0;
  std::int64_t hidden = 0;

  constexpr std::int64_t count() const { return tokens * hidden; }
};

constexpr void gather_element(const Gather& job, std::int64_t index) {
  const std::int64_t token = index / job.hidden;
  const std::int64_t column = index - token * job.hidden;
  const std::int64_t row = job.ids[token];
  store_element(job.out, job.to, index,
                load_element(job.table, job.from, row * job.hidden + column));
}

/// Words mod 2^32 to their balanced digits: x = sum 2^(8l) d_l with d_l in [-128, 127]. The bytes
/// of x + 0x80808080 are the digits plus 128.
inline constexpr std::int64_t kDigits = 4;

struct Split {
  const std::uint32_t* in = nullptr;  // [rows, columns], dense
  std::uint32_t* out = nullptr;       // int8 [kDigits * rows, pitch], four to a word: lowest digits
                                      // of all rows first; 0 behind `columns`
  std::int64_t rows = 0;
  std::int64_t columns = 0;
  std::int64_t pitch = 0;  // bytes; a multiple of 4, at least `columns`

  constexpr std::int64_t words() const { return pitch / 4; }  // of a row of digits
  constexpr std::int64_t count() const { return rows * words(); }
};

/// All digits of four columns of a row.
constexpr void split_element(const Split& job, std::int64_t index) {
  const std::int64_t row = index / job.words();
  const std::int64_t first = (index - row * job.words()) * 4;
  std::uint32_t digits[kDigits] = {};
  for (std::int64_t i = 0; i < 4 && first + i < job.columns; ++i) {
    const std::uint32_t bytes = job.in[row * job.columns + first + i] + 0x80808080U;
    for (std::int64_t l = 0; l < kDigits; ++l) {
      const std::uint32_t digit = ((bytes >> (8 * l)) & 0xffU) ^ 0x80U;  // less 128, in 8 bits
      digits[l] |= digit << (8 * i);
    }
  }
  for (std::int64_t l = 0; l < kDigits; ++l) job.out[l * job.count() + index] = digits[l];
}

/// The digits' products to those of the words, mod 2^32.
struct Combine {
  const std::int32_t* in = nullptr;  // [kDigits * rows, pitch] in the order of Split::out
  std::int64_t pitch = 0;            // elements
  std::uint32_t* out = nullptr;      // [rows, columns], dense
  std::int64_t rows = 0;
  std::int64_t columns = 0;  // at most `pitch`

  constexpr std::int64_t count() const { return rows * columns; }
};

constexpr void combine_element(const Combine& job, std::int64_t index) {
  const std::int64_t row = index / job.columns;
  const std::int64_t place = row * job.pitch + (index - row * job.columns);
  std::uint32_t sum = 0;
  for (std::int64_t l = 0; l < kDigits; ++l) {
    sum += static_cast<std::uint32_t>(job.in[l * job.rows * job.pitch + place]) << (8 * l);
  }
  job.out[index] = sum;
}

}  // namespace airlock::cuda
