#include "tee_runner/heads.h"

#include <cstring>
#include <vector>

#include "base/convert.h"
#include "tee_runner/vector_math.h"

namespace airlock {

namespace {

/// Byte offsets of a tile's pieces, checked once against both tensors.
struct Layout {
  std::size_t head_count;
  std::size_t row_count;
  std::size_t head_dim;
  std::size_t head_bytes;    // one head of one token
  std::size_t row_pitch;     // from token to token in the row layout
  std::size_t first_offset;  // of the tile's first element in the row layout

  Layout(const TensorDesc& rows, const TensorDesc& heads, const HeadTile& tile) {
    CHECK(rows.dtype == heads.dtype && rows.shape.rank() == 2 && heads.shape.rank() == 3);
    CHECK(heads.shape[0] == tile.head_count && heads.shape[1] == tile.row_count);
    CHECK((tile.first_head + tile.head_count) * heads.shape[2] <= rows.shape[1]);
    CHECK(tile.first_row + tile.row_count <= rows.shape[0]);
    const std::size_t element = dtype_bytes(rows.dtype);
    head_count = static_cast<std::size_t>(tile.head_count);
    row_count = static_cast<std::size_t>(tile.row_count);
    head_dim = static_cast<std::size_t>(heads.shape[2]);
    head_bytes = head_dim * element;
    row_pitch = static_cast<std::size_t>(rows.shape[1]) * element;
    first_offset = static_cast<std::size_t>(tile.first_row) * row_pitch +
                   static_cast<std::size_t>(tile.first_head) * head_bytes;
  }
  std::size_t in_rows(std::size_t head, std::size_t row) const {
    return first_offset + row * row_pitch + head * head_bytes;
  }
  std::size_t in_heads(std::size_t head, std::size_t row) const {
    return (head * row_count + row) * head_bytes;
  }
};

}  // namespace

void rotate_heads(ThreadPool& pool, const RopeTable& table, TensorView rows, const HeadTile& tile,
                  MutableTensorView heads) {
  const Layout at(rows.desc, heads.desc, tile);
  CHECK(table.half * 2 == at.head_dim);
  const VectorMath& math = vector_math();
  pool.parallel_for(at.row_count, [&](std::size_t begin, std::size_t end) {
    std::vector<float> line(at.head_count * at.head_dim);
    std::vector<float> rotated(at.head_dim);
    for (std::size_t row = begin; row < end; ++row) {
      load_f32(rows.desc.dtype, rows.data + at.in_rows(0, row), line.data(), line.size());
      const std::size_t angles = (static_cast<std::size_t>(tile.first_row) + row) * table.half;
      for (std::size_t head = 0; head < at.head_count; ++head) {
        math.rotate_head(line.data() + head * at.head_dim, &table.cos[angles], &table.sin[angles],
                         table.half, rotated.data());
        store_f32(heads.desc.dtype, rotated.data(), heads.data + at.in_heads(head, row),
                  at.head_dim);
      }
    }
  });
}

void split_heads(ThreadPool& pool, TensorView rows, const HeadTile& tile, MutableTensorView heads) {
  const Layout at(rows.desc, heads.desc, tile);
  pool.parallel_for(at.row_count, [&](std::size_t begin, std::size_t end) {
    for (std::size_t row = begin; row < end; ++row) {
      for (std::size_t head = 0; head < at.head_count; ++head) {
        std::memcpy(heads.data + at.in_heads(head, row), rows.data + at.in_rows(head, row),
                    at.head_bytes);
      }
    }
  });
}

void merge_heads(ThreadPool& pool, TensorView heads, const HeadTile& tile, MutableTensorView rows) {
  const Layout at(rows.desc, heads.desc, tile);
  pool.parallel_for(at.row_count, [&](std::size_t begin, std::size_t end) {
    for (std::size_t row = begin; row < end; ++row) {
      for (std::size_t head = 0; head < at.head_count; ++head) {
        std::memcpy(rows.data + at.in_rows(head, row), heads.data + at.in_heads(head, row),
                    at.head_bytes);
      }
    }
  });
}

}  // namespace airlock
