#include "tee_runner/llama/heads.h"

#include <cstring>
#include <vector>

#include "base/convert.h"
#include "proto/limits.h"
#include "tee_runner/llama/vector_math.h"

namespace airlock {

namespace {

/// Where a tile's pieces lie, in bytes; checked once against both tensors.
struct Layout {
  std::size_t head_count;
  std::size_t row_count;
  std::size_t head_dim;
  std::size_t row_piece;   // bytes of one head of one token in the row layout
  std::size_t head_piece;  // and in the head layout
  std::size_t row_pitch;   // from token to token in the row layout
  std::size_t head_pitch;  // from head to head in the head layout
  std::size_t first_in_rows;
  std::size_t first_in_heads;

  Layout(const TensorDesc& rows, const TensorDesc& heads, const HeadTile& tile) {
    CHECK(rows.shape.rank() == 2 && heads.shape.rank() == 3);
    CHECK(heads.shape[0] == tile.head_count && heads.shape[2] <= limits::kMaxHeadDim);
    CHECK((tile.first_head + tile.head_count) * heads.shape[2] <= rows.shape[1]);
    CHECK(tile.first_row + tile.row_count <= rows.shape[0]);
    CHECK(tile.heads_row + tile.row_count <= heads.shape[1]);
    head_count = static_cast<std::size_t>(tile.head_count);
    row_count = static_cast<std::size_t>(tile.row_count);
    head_dim = static_cast<std::size_t>(heads.shape[2]);
    row_piece = head_dim * dtype_bytes(rows.dtype);
    head_piece = head_dim * dtype_bytes(heads.dtype);
    row_pitch = static_cast<std::size_t>(rows.shape[1]) * dtype_bytes(rows.dtype);
    head_pitch = static_cast<std::size_t>(heads.shape[1]) * head_piece;
    first_in_rows = static_cast<std::size_t>(tile.first_row) * row_pitch +
                    static_cast<std::size_t>(tile.first_head) * row_piece;
    first_in_heads = static_cast<std::size_t>(tile.heads_row) * head_piece;
  }
  std::size_t in_rows(std::size_t head, std::size_t row) const {
    return first_in_rows + row * row_pitch + head * row_piece;
  }
  std::size_t in_heads(std::size_t head, std::size_t row) const {
    return first_in_heads + head * head_pitch + row * head_piece;
  }
  /// move(place in `rows`, place in `heads`) for each head of each row.
  void for_each_piece(ThreadPool& pool, auto move) const {
    pool.parallel_for(row_count, [&](std::size_t begin, std::size_t end) {
      for (std::size_t row = begin; row < end; ++row) {
        for (std::size_t head = 0; head < head_count; ++head)
          move(in_rows(head, row), in_heads(head, row));
      }
    });
  }
};

}  // namespace

void rotate_heads(ThreadPool& pool, const RopeTable& table, TensorView rows, const HeadTile& tile,
                  std::int64_t position, MutableTensorView heads) {
  const Layout at(rows.desc, heads.desc, tile);
  const std::size_t first = static_cast<std::size_t>(position + tile.first_row);
  CHECK(table.half * 2 == at.head_dim);
  CHECK((first + at.row_count) * table.half <= table.cos.size());
  const VectorMath& math = vector_math();
  pool.parallel_for(at.row_count, [&](std::size_t begin, std::size_t end) {
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
  const Layout at(rows.desc, heads.desc, tile);
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
  const Layout at(rows.desc, heads.desc, tile);
  CHECK(rows.desc.dtype == heads.desc.dtype);
  at.for_each_piece(pool, [&](std::size_t to, std::size_t from) {
    std::memcpy(rows.data + to, heads.data + from, at.row_piece);
  });
}

}  // namespace airlock
