#include <algorithm>
#include <cmath>
#include <vector>

#include "base/convert.h"
#include "tee_runner/llama/attention_rows.h"
#include "tee_runner/llama/kernels.h"
#include "tee_runner/llama/vector_math.h"

namespace airlock {

namespace {

constexpr std::size_t kQueryRows = QueryBlock::kRows;
constexpr std::size_t kKeyRows = QueryBlock::kKeys;
// So many rows of queries are fetched ahead.
constexpr std::size_t kFetchedRows = 3;

/// A tensor because its start is aligned for vectors.
Tensor zeros(std::size_t count) {
  return Tensor({DType::kF32, {static_cast<std::int64_t>(count)}});
}

/// fp32 of one key-value head and of the query heads that share it, padded with zeros. Blocks of
/// queries and of keys begin at multiples of their size wherever a pass begins, so that a row goes
/// through the same steps in each.
struct GroupData {
  std::size_t position;  // of the first query
  std::size_t tokens;
  std::size_t query_heads;
  std::size_t head_dim;
  bool copies_values;  // values of fp32 whose rows are as wide as `pitch` stay where they are

  std::size_t end = position + tokens;  // behind the last query and key
  std::size_t pitch = round_up(head_dim, QueryBlock::kPitchStep);
  std::size_t first_block = position / kQueryRows * kQueryRows;
  std::size_t query_rows = round_up(end, kQueryRows) - first_block;
  // [query_heads, query_rows, pitch], rotated.
  Tensor queries = zeros(query_heads * query_rows * pitch);
  // Blocks of [head_dim, kKeyRows].
  Tensor keys = zeros(round_up(end, kKeyRows) * head_dim);
  // [end rounded up to kKeyRows, pitch], where they are copied.
  Tensor copied_values = zeros(copies_values ? round_up(end, kKeyRows) * pitch : 0);
  const float* values = nullptr;  // [at least end, pitch]
};

const std::byte* element_at(TensorView tensor, std::size_t element) {
  return tensor.data + element * dtype_bytes(tensor.desc.dtype);
}

/// Some elements of a row, which lie a row from those of the next: no CPU fetches them by itself.
void fetch(TensorView rows, std::size_t element, std::size_t count) {
  constexpr std::size_t kLine = 64;
  const std::byte* const first = element_at(rows, element);
  for (std::size_t i = 0; i < count * dtype_bytes(rows.desc.dtype); i += kLine)
    __builtin_prefetch(first + i);
}

void pack_group(ThreadPool& pool, const RopeTable& table, TensorView q, TensorView keys,
                TensorView values, std::size_t group, GroupData& data) {
  const std::size_t d = data.head_dim;
  const std::size_t heads = data.query_heads;
  const std::size_t width = static_cast<std::size_t>(q.desc.shape[1]);
  const std::size_t first_cached = group * static_cast<std::size_t>(keys.desc.shape[1]);
  float* const queries = data.queries.as<float>().data();
  float* const transposed = data.keys.as<float>().data();
  float* const copied_values = data.copied_values.as<float>().data();
  data.values = data.copies_values
                    ? copied_values
                    : reinterpret_cast<const float*>(element_at(values, first_cached * d));
  pool.parallel_for(data.end, [&](std::size_t begin, std::size_t end) {
    std::vector<float> line(d);
    for (std::size_t at = begin; at < end; ++at) {
      load_f32(keys.desc.dtype, element_at(keys, (first_cached + at) * d), line.data(), d);
      float* column = transposed + at / kKeyRows * kKeyRows * d + at % kKeyRows;
      for (std::size_t i = 0; i < d; ++i) column[i * kKeyRows] = line[i];
      if (data.copies_values) {
        load_f32(values.desc.dtype, element_at(values, (first_cached + at) * d),
                 copied_values + at * data.pitch, d);
      }
      if (at < data.position) continue;
      if (at + kFetchedRows < data.end) {
        fetch(q, (at + kFetchedRows - data.position) * width + group * heads * d, heads * d);
      }
      for (std::size_t head = 0; head < heads; ++head) {
        rotate_row(table, at, q.desc.dtype,
                   element_at(q, (at - data.position) * width + (group * heads + head) * d),
                   queries + (head * data.query_rows + at - data.first_block) * data.pitch);
      }
    }
  });
}

/// Walks with a block of queries over all the keys that they see.
void attend_to_keys(QueryBlock& block, const GroupData& data) {
  const float* const keys = data.keys.as<float>().data();
  block.begin();
  const std::size_t end = block.first_position + kQueryRows;
  for (std::size_t first_key = 0; first_key < end; first_key += kKeyRows) {
    vector_math().attend(block, first_key, keys + first_key * data.head_dim,
                         data.values + first_key * data.pitch);
  }
}

/// body(row, its first element in head `head` of `out`), whose first row is at `position`.
void for_each_row(const QueryBlock& block, std::size_t head, std::size_t position, TensorView out,
                  const auto& body) {
  const auto width = static_cast<std::size_t>(out.desc.shape[1]);
  for (std::size_t row = block.first_row; row < block.end_row; ++row)
    body(row, (block.first_position + row - position) * width + head * block.head_dim);
}

}  // namespace

void blocked_attention(ThreadPool& pool, const RopeTable& table, TensorView q,
                       std::int64_t position, TensorView keys, TensorView values,
                       MutableTensorView out) {
  const Shape& cached = keys.desc.shape;
  CHECK(q.desc.shape == out.desc.shape && keys.desc == values.desc);
  const std::int64_t heads = q.desc.shape[1] / cached[2];
  CHECK(heads * cached[2] == q.desc.shape[1] && heads % cached[0] == 0);
  const auto head_dim = static_cast<std::size_t>(cached[2]);
  const bool copies_values =
      values.desc.dtype != DType::kF32 || head_dim % QueryBlock::kPitchStep != 0;
  GroupData data{static_cast<std::size_t>(position), static_cast<std::size_t>(q.desc.shape[0]),
                 static_cast<std::size_t>(heads / cached[0]), head_dim, copies_values};
  CHECK(data.end <= static_cast<std::size_t>(cached[1]));
  CHECK(table.half * 2 == data.head_dim && table.cos.size() >= data.end * table.half);
  const std::size_t blocks = data.query_rows / kQueryRows;
  for (std::size_t group = 0; group < static_cast<std::size_t>(cached[0]); ++group) {
    pack_group(pool, table, q, keys, values, group, data);
    pool.parallel_for(data.query_heads * blocks, [&](std::size_t begin, std::size_t end) {
      Tensor output = zeros(kQueryRows * data.pitch);
      QueryBlock block;
      block.output = output.as<float>().data();
      block.pitch = data.pitch;
      block.head_dim = data.head_dim;
      block.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(data.head_dim)));
      for (std::size_t item = begin; item < end; ++item) {
        const std::size_t head = item / blocks;
        const std::size_t first = balanced_index(item % blocks, blocks) * kQueryRows;
        block.first_position = data.first_block + first;
        block.first_row = std::max(block.first_position, data.position) - block.first_position;
        block.end_row = std::min(kQueryRows, data.end - block.first_position);
        block.queries =
            data.queries.as<float>().data() + (head * data.query_rows + first) * data.pitch;
        const std::size_t out_head = group * data.query_heads + head;
        for_each_row(block, out_head, data.position, out, [&](std::size_t, std::size_t element) {
          fetch(out, element, block.head_dim);
        });
        attend_to_keys(block, data);
        for_each_row(block, out_head, data.position, out,
                     [&](std::size_t row, std::size_t element) {
                       finish_row(block, row, out.desc.dtype,
                                  out.data + element * dtype_bytes(out.desc.dtype));
                     });
      }
    });
  }
}

}  // namespace airlock
