#include "tee_runner/llama/attention_rows.h"

#include "base/check.h"
#include "base/convert.h"
#include "proto/limits.h"

namespace airlock {

void rotate_row(const RopeTable& table, std::size_t position, DType dtype, const std::byte* in,
                float* out) {
  const float* const cos = &table.cos[position * table.half];
  const float* const sin = &table.sin[position * table.half];
  if (dtype == DType::kBF16) {
    vector_math().rotate_head_bf16(reinterpret_cast<const std::uint16_t*>(in), cos, sin, table.half,
                                   out);
    return;
  }
  load_f32(dtype, in, out, 2 * table.half);
  vector_math().rotate_head(out, cos, sin, table.half, out);
}

void finish_row(const QueryBlock& block, std::size_t row, DType dtype, std::byte* out) {
  if (dtype == DType::kBF16) {
    vector_math().finish_bf16(block, row, reinterpret_cast<std::uint16_t*>(out));
    return;
  }
  CHECK(block.head_dim <= limits::kMaxHeadDim);
  alignas(64) float line[limits::kMaxHeadDim];
  vector_math().finish(block, row, line);
  store_f32(dtype, line, out, block.head_dim);
}

}  // namespace airlock
