#include "tee_runner/llama/kernels.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "base/convert.h"
#include "proto/limits.h"
#include "tee_runner/llama/int8_kernels.h"
#include "tee_runner/llama/vector_math.h"

namespace airlock {

namespace {

// Floats of one block of scratch on the stack.
constexpr std::size_t kBlock = 1024;
constexpr std::size_t kSoftmaxRows = 16;
// Up to so many elements one thread is through before another one is awake: a few rows, as decoding
// has them.
constexpr std::size_t kElementsAlone = std::size_t{1} << 16;

/// pool.parallel_for() over items that are `elements` together.
void for_items(ThreadPool& pool, std::size_t count, std::size_t elements, const auto& body) {
  if (elements <= kElementsAlone && count > 0) return body(std::size_t{0}, count);
  pool.parallel_for(count, body);
}

const std::uint16_t* bf16_at(TensorView view, std::size_t element) {
  return reinterpret_cast<const std::uint16_t*>(view.data) + element;
}
std::uint16_t* bf16_at(MutableTensorView view, std::size_t element) {
  return reinterpret_cast<std::uint16_t*>(view.data) + element;
}

std::size_t to_size(std::int64_t value) { return static_cast<std::size_t>(value); }

/// Where a tile's pieces lie, in bytes.
struct Layout {
  TensorDesc rows;
  TensorDesc heads;
  HeadTile tile;

  std::size_t head_count = to_size(tile.head_count);
  std::size_t row_count = to_size(tile.row_count);
  std::size_t head_dim = to_size(heads.shape[2]);
  // Of one head of one token.
  std::size_t row_piece = head_dim * dtype_bytes(rows.dtype);
  std::size_t head_piece = head_dim * dtype_bytes(heads.dtype);
  // From token to token in `rows`, from head to head in `heads`.
  std::size_t row_pitch = to_size(rows.shape[1]) * dtype_bytes(rows.dtype);
  std::size_t head_pitch = to_size(heads.shape[1]) * head_piece;
  std::size_t first_in_rows =
      to_size(tile.first_row) * row_pitch + to_size(tile.first_head) * row_piece;
  std::size_t first_in_heads = to_size(tile.heads_row) * head_piece;

  std::size_t in_rows(std::size_t head, std::size_t row) const {
    return first_in_rows + row * row_pitch + head * row_piece;
  }
  std::size_t in_heads(std::size_t head, std::size_t row) const {
    return first_in_heads + head * head_pitch + row * head_piece;
  }
  /// move(place in `rows`, place in `heads`) for each head of each row.
  void for_each_piece(ThreadPool& pool, auto move) const {
    for_items(pool, row_count, row_count * head_count * head_dim,
              [&](std::size_t begin, std::size_t end) {
                for (std::size_t row = begin; row < end; ++row) {
                  for (std::size_t head = 0; head < head_count; ++head)
                    move(in_rows(head, row), in_heads(head, row));
                }
              });
  }
};

/// Checks the tile against both tensors.
Layout layout_of(const TensorDesc& rows, const TensorDesc& heads, const HeadTile& tile) {
  CHECK(rows.shape.rank() == 2 && heads.shape.rank() == 3);
  CHECK(heads.shape[0] == tile.head_count && heads.shape[2] <= limits::kMaxHeadDim);
  CHECK((tile.first_head + tile.head_count) * heads.shape[2] <= rows.shape[1]);
  CHECK(tile.first_row + tile.row_count <= rows.shape[0]);
  CHECK(tile.heads_row + tile.row_count <= heads.shape[1]);
  return {rows, heads, tile};
}

}  // namespace

void rms_norm(ThreadPool& pool, const Tensor& hidden, std::int64_t first_row, const float* weight,
              double epsilon, MutableTensorView out) {
  if (out.desc.dtype == DType::kI8)
    return rms_norm_int8(pool, hidden, first_row, weight, epsilon, out);
  const std::size_t width = to_size(hidden.desc().shape[1]);
  const std::size_t rows = to_size(out.desc.shape[0]);
  const std::size_t first = to_size(first_row);
  CHECK(out.desc.shape[1] == hidden.desc().shape[1] &&
        first + rows <= to_size(hidden.desc().shape[0]));
  const float* source = hidden.as<float>().data() + first * width;
  const std::size_t row_bytes = width * dtype_bytes(out.desc.dtype);
  const VectorMath& math = vector_math();
  if (out.desc.dtype == DType::kBF16) {
    for_items(pool, rows, rows * width, [&](std::size_t begin, std::size_t end) {
      for (std::size_t row = begin; row < end; ++row) {
        math.rms_norm_bf16(source + row * width, weight, static_cast<float>(epsilon),
                           bf16_at(out, row * width), width);
      }
    });
    return;
  }
  for_items(pool, rows, rows * width, [&](std::size_t begin, std::size_t end) {
    // A tensor because its start is aligned for vectors.
    Tensor line({DType::kF32, {hidden.desc().shape[1]}});
    float* values = line.as<float>().data();
    for (std::size_t row = begin; row < end; ++row) {
      math.rms_norm(source + row * width, weight, static_cast<float>(epsilon), values, width);
      store_f32(out.desc.dtype, values, out.data + row * row_bytes, width);
    }
  });
}

void causal_softmax(ThreadPool& pool, TensorView scores, std::int64_t first_row, float scale,
                    MutableTensorView out) {
  const std::size_t heads = to_size(scores.desc.shape[0]);
  const std::size_t rows = to_size(scores.desc.shape[1]);
  const std::size_t keys = to_size(scores.desc.shape[2]);
  const std::size_t first = to_size(first_row);
  CHECK(scores.desc.shape == out.desc.shape && first + rows <= keys);
  const std::size_t in_element = dtype_bytes(scores.desc.dtype);
  const std::size_t out_element = dtype_bytes(out.desc.dtype);
  const std::size_t blocks = (rows + kSoftmaxRows - 1) / kSoftmaxRows;
  const VectorMath& math = vector_math();
  pool.parallel_for(heads * blocks, [&](std::size_t begin, std::size_t end) {
    Tensor line({DType::kF32, {static_cast<std::int64_t>(round_up(keys, kSumLanes))}});
    float* values = line.as<float>().data();
    for (std::size_t item = begin; item < end; ++item) {
      const std::size_t head = item / blocks;
      const std::size_t start = balanced_index(item % blocks, blocks) * kSoftmaxRows;
      for (std::size_t row = start; row < std::min(rows, start + kSoftmaxRows); ++row) {
        const std::size_t visible = first + row + 1;
        const std::size_t offset = (head * rows + row) * keys;
        load_f32(scores.desc.dtype, scores.data + offset * in_element, values, visible);
        math.softmax(values, visible, scale);
        std::byte* target = out.data + offset * out_element;
        store_f32(out.desc.dtype, values, target, visible);
        std::memset(target + visible * out_element, 0, (keys - visible) * out_element);
      }
    }
  });
}

void silu_multiply(ThreadPool& pool, TensorView gate, TensorView up, MutableTensorView out) {
  if (out.desc.dtype == DType::kI8) return silu_multiply_int8(pool, gate, up, out);
  const std::size_t total = out.desc.elements();
  CHECK(gate.desc.elements() == total && up.desc.elements() == total);
  const VectorMath& math = vector_math();
  const bool is_bf16 = gate.desc.dtype == DType::kBF16 && up.desc.dtype == DType::kBF16 &&
                       out.desc.dtype == DType::kBF16;
  for_items(pool, (total + kBlock - 1) / kBlock, total, [&](std::size_t begin, std::size_t end) {
    if (is_bf16) {
      const std::size_t first = begin * kBlock;
      math.silu_multiply_bf16(bf16_at(gate, first), bf16_at(up, first), bf16_at(out, first),
                              std::min(total, end * kBlock) - first);
      return;
    }
    alignas(64) float left[kBlock];
    alignas(64) float right[kBlock];
    for (std::size_t i = begin * kBlock; i < std::min(total, end * kBlock); i += kBlock) {
      const std::size_t count = std::min(kBlock, total - i);
      load_f32(gate.desc.dtype, gate.data + i * dtype_bytes(gate.desc.dtype), left, count);
      load_f32(up.desc.dtype, up.data + i * dtype_bytes(up.desc.dtype), right, count);
      math.silu_multiply(left, right, left, count);
      store_f32(out.desc.dtype, left, out.data + i * dtype_bytes(out.desc.dtype), count);
    }
  });
}

void add_residual(ThreadPool& pool, TensorView delta, std::int64_t first_row, Tensor& hidden) {
  if (delta.desc.dtype == DType::kI8) return add_residual_int8(pool, delta, first_row, hidden);
  const std::size_t width = to_size(hidden.desc().shape[1]);
  const std::size_t total = delta.desc.elements();
  CHECK(to_size(first_row) * width + total <= hidden.desc().elements());
  float* target = hidden.as<float>().data() + to_size(first_row) * width;
  const VectorMath& math = vector_math();
  for_items(pool, (total + kBlock - 1) / kBlock, total, [&](std::size_t begin, std::size_t end) {
    if (delta.desc.dtype == DType::kBF16) {
      const std::size_t first = begin * kBlock;
      math.add_bf16(bf16_at(delta, first), target + first, std::min(total, end * kBlock) - first);
      return;
    }
    alignas(64) float block[kBlock];
    for (std::size_t i = begin * kBlock; i < std::min(total, end * kBlock); i += kBlock) {
      const std::size_t count = std::min(kBlock, total - i);
      load_f32(delta.desc.dtype, delta.data + i * dtype_bytes(delta.desc.dtype), block, count);
      math.add(block, target + i, count);
    }
  });
}

void add_and_normalise(ThreadPool& pool, TensorView delta, std::int64_t first_row, Tensor& hidden,
                       const float* weight, double epsilon, MutableTensorView out) {
  if (out.desc.dtype == DType::kI8) {
    add_residual_int8(pool, delta, first_row, hidden);
    return rms_norm_int8(pool, hidden, first_row, weight, epsilon, out);
  }
  const std::size_t width = to_size(hidden.desc().shape[1]);
  const std::size_t rows = to_size(out.desc.shape[0]);
  const std::size_t first = to_size(first_row);
  CHECK(out.desc.shape == delta.desc.shape && out.desc.shape[1] == hidden.desc().shape[1] &&
        first + rows <= to_size(hidden.desc().shape[0]));
  float* const target = hidden.as<float>().data() + first * width;
  const auto small = static_cast<float>(epsilon);
  const VectorMath& math = vector_math();
  for_items(pool, rows, rows * width, [&](std::size_t begin, std::size_t end) {
    if (delta.desc.dtype == DType::kBF16 && out.desc.dtype == DType::kBF16) {
      for (std::size_t row = begin; row < end; ++row) {
        math.add_rms_norm_bf16(bf16_at(delta, row * width), target + row * width, weight, small,
                               bf16_at(out, row * width), width);
      }
      return;
    }
    Tensor line({DType::kF32, {hidden.desc().shape[1]}});
    float* const values = line.as<float>().data();
    for (std::size_t row = begin; row < end; ++row) {
      const std::size_t at = row * width;
      load_f32(delta.desc.dtype, delta.data + at * dtype_bytes(delta.desc.dtype), values, width);
      math.add(values, target + at, width);
      math.rms_norm(target + at, weight, small, values, width);
      store_f32(out.desc.dtype, values, out.data + at * dtype_bytes(out.desc.dtype), width);
    }
  });
}

void rotate_heads(ThreadPool& pool, const RopeTable& table, TensorView rows, const HeadTile& tile,
                  std::int64_t position, MutableTensorView heads) {
  const Layout at = layout_of(rows.desc, heads.desc, tile);
  const std::size_t first = to_size(position + tile.first_row);
  CHECK(table.half * 2 == at.head_dim);
  CHECK((first + at.row_count) * table.half <= table.cos.size());
  const VectorMath& math = vector_math();
  for_items(
      pool, at.row_count, at.row_count * at.head_count * at.head_dim,
      [&](std::size_t begin, std::size_t end) {
        std::vector<float> line(at.head_count * at.head_dim);
        for (std::size_t row = begin; row < end; ++row) {
          load_f32(rows.desc.dtype, rows.data + at.in_rows(0, row), line.data(), line.size());
          const std::size_t angles = (first + row) * table.half;
          for (std::size_t head = 0; head < at.head_count; ++head) {
            float* values = line.data() + head * at.head_dim;
            math.rotate_head(values, &table.cos[angles], &table.sin[angles], table.half, values);
            store_f32(heads.desc.dtype, values, heads.data + at.in_heads(head, row), at.head_dim);
          }
        }
      });
}

void split_heads(ThreadPool& pool, TensorView rows, const HeadTile& tile, MutableTensorView heads) {
  const Layout at = layout_of(rows.desc, heads.desc, tile);
  at.for_each_piece(pool, [&](std::size_t from, std::size_t to) {
    if (rows.desc.dtype == heads.desc.dtype) {
      std::memcpy(heads.data + to, rows.data + from, at.row_piece);
      return;
    }
    float line[limits::kMaxHeadDim];
    load_f32(rows.desc.dtype, rows.data + from, line, at.head_dim);
    store_f32(heads.desc.dtype, line, heads.data + to, at.head_dim);
  });
}

void merge_heads(ThreadPool& pool, TensorView heads, const HeadTile& tile, MutableTensorView rows) {
  const Layout at = layout_of(rows.desc, heads.desc, tile);
  CHECK(rows.desc.dtype == heads.desc.dtype);
  at.for_each_piece(pool, [&](std::size_t to, std::size_t from) {
    std::memcpy(rows.data + to, heads.data + from, at.row_piece);
  });
}

}  // namespace airlock
