#include "tee_runner/attention.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "base/convert.h"
#include "tee_runner/kernels.h"
#include "tee_runner/vector_math.h"

namespace airlock {

namespace {

constexpr std::size_t kQueryRows = QueryBlock::kRows;
constexpr std::size_t kKeyRows = QueryBlock::kKeys;

/// Private fp32 copies of one key-value head and of the query heads that share it, padded with
/// zeros.
struct GroupData {
  std::size_t tokens;
  std::size_t head_dim;
  std::size_t pitch;
  std::size_t query_heads;
  std::size_t query_rows;      // tokens rounded up to kQueryRows
  std::vector<float> queries;  // [query_heads, query_rows, pitch], rotated
  std::vector<float> keys;     // blocks of [head_dim, kKeyRows], rotated
  std::vector<float> values;   // [tokens rounded up to kKeyRows, pitch]

  GroupData(const ModelDims& dims, std::size_t token_count)
      : tokens(token_count),
        head_dim(static_cast<std::size_t>(dims.head_dim)),
        pitch(round_up(head_dim, QueryBlock::kPitchStep)),
        query_heads(static_cast<std::size_t>(dims.heads / dims.kv_heads)),
        query_rows(round_up(tokens, kQueryRows)),
        queries(query_heads * query_rows * pitch),
        keys(round_up(tokens, kKeyRows) * head_dim),
        values(round_up(tokens, kKeyRows) * pitch) {}
};

/// `heads` consecutive heads of one token, as fp32.
void load_heads(TensorView rows, std::size_t token, std::size_t first_head, std::size_t heads,
                std::size_t head_dim, float* out) {
  const std::size_t width = static_cast<std::size_t>(rows.desc.shape[1]);
  const std::size_t offset = token * width + first_head * head_dim;
  load_f32(rows.desc.dtype, rows.data + offset * dtype_bytes(rows.desc.dtype), out,
           heads * head_dim);
}

void pack_group(ThreadPool& pool, const RopeTable& table, TensorView q, TensorView k, TensorView v,
                std::size_t group, GroupData& data) {
  const std::size_t d = data.head_dim;
  const VectorMath& math = vector_math();
  pool.parallel_for(data.tokens, [&](std::size_t begin, std::size_t end) {
    std::vector<float> line(data.query_heads * d);
    std::vector<float> rotated(d);
    for (std::size_t token = begin; token < end; ++token) {
      const float* cos = &table.cos[token * table.half];
      const float* sin = &table.sin[token * table.half];
      load_heads(q, token, group * data.query_heads, data.query_heads, d, line.data());
      for (std::size_t head = 0; head < data.query_heads; ++head) {
        math.rotate_head(line.data() + head * d, cos, sin, table.half,
                         &data.queries[(head * data.query_rows + token) * data.pitch]);
      }
      load_heads(k, token, group, 1, d, line.data());
      math.rotate_head(line.data(), cos, sin, table.half, rotated.data());
      float* column = &data.keys[token / kKeyRows * kKeyRows * d + token % kKeyRows];
      for (std::size_t i = 0; i < d; ++i) column[i * kKeyRows] = rotated[i];
      load_heads(v, token, group, 1, d, &data.values[token * data.pitch]);
    }
  });
}

/// Walks with a block of queries over all the keys that they see.
void attend_to_keys(QueryBlock& block, const GroupData& data) {
  std::fill_n(block.output, kQueryRows * block.pitch, 0.0F);
  std::fill_n(block.peak, kQueryRows, -std::numeric_limits<float>::infinity());
  std::fill_n(block.total, kQueryRows, 0.0F);
  const std::size_t end = block.first_position + kQueryRows;
  for (std::size_t first_key = 0; first_key < end; first_key += kKeyRows) {
    vector_math().attend(block, first_key, &data.keys[first_key * data.head_dim],
                         &data.values[first_key * data.pitch]);
  }
}

/// Divides the block's output by the total of its weights and rounds it into head `head` of `out`.
void store_block(const QueryBlock& block, std::size_t head, MutableTensorView out) {
  const auto tokens = static_cast<std::size_t>(out.desc.shape[0]);
  const auto width = static_cast<std::size_t>(out.desc.shape[1]);
  const std::size_t rows = std::min(kQueryRows, tokens - block.first_position);
  for (std::size_t row = 0; row < rows; ++row) {
    float* line = block.output + row * block.pitch;
    for (std::size_t i = 0; i < block.head_dim; ++i) line[i] /= block.total[row];
    const std::size_t offset = (block.first_position + row) * width + head * block.head_dim;
    store_f32(out.desc.dtype, line, out.data + offset * dtype_bytes(out.desc.dtype),
              block.head_dim);
  }
}

}  // namespace

void blocked_attention(ThreadPool& pool, const ModelDims& dims, const RopeTable& table,
                       TensorView q, TensorView k, TensorView v, MutableTensorView out) {
  const auto tokens = static_cast<std::size_t>(out.desc.shape[0]);
  CHECK(q.desc.shape == out.desc.shape && k.desc.shape == v.desc.shape &&
        table.cos.size() >= tokens * table.half);
  CHECK(table.half * 2 == static_cast<std::size_t>(dims.head_dim));
  GroupData data(dims, tokens);
  const std::size_t blocks = data.query_rows / kQueryRows;
  for (std::size_t group = 0; group < static_cast<std::size_t>(dims.kv_heads); ++group) {
    pack_group(pool, table, q, k, v, group, data);
    pool.parallel_for(data.query_heads * blocks, [&](std::size_t begin, std::size_t end) {
      std::vector<float> output(kQueryRows * data.pitch);
      QueryBlock block;
      block.output = output.data();
      block.pitch = data.pitch;
      block.head_dim = data.head_dim;
      block.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(data.head_dim)));
      for (std::size_t item = begin; item < end; ++item) {
        const std::size_t head = item / blocks;
        block.first_position = balanced_index(item % blocks, blocks) * kQueryRows;
        block.queries = &data.queries[(head * data.query_rows + block.first_position) * data.pitch];
        attend_to_keys(block, data);
        store_block(block, group * data.query_heads + head, out);
      }
    });
  }
}

}  // namespace airlock
