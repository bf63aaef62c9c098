#include "tee_runner/attention.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "base/convert.h"
#include "base/vectorize.h"
#include "tee_runner/kernels.h"
#include "tee_runner/vector_math.h"

namespace airlock {

namespace {

constexpr std::size_t kQueryRows = 32;  // queries of one block
constexpr std::size_t kKeyRows =
    64;  // keys of one block; a multiple of kQueryRows, so that no row sees an empty block
constexpr std::size_t kTileRows = 8;  // of the register tile
constexpr std::size_t kTileColumns = 2 * kLanes;

std::size_t round_up(std::size_t value, std::size_t step) {
  return (value + step - 1) / step * step;
}

/// c [8, 32] += a [8, depth] * b [depth, 32]; the strides are in floats.
AIRLOCK_INLINE void multiply_tile(const float* a, std::size_t a_stride, const float* b,
                                  std::size_t b_stride, std::size_t depth, float* c,
                                  std::size_t c_stride) {
  FloatLanes sums[kTileRows][2];
  for (std::size_t row = 0; row < kTileRows; ++row)
    std::memcpy(sums[row], c + row * c_stride, sizeof(sums[row]));
  for (std::size_t i = 0; i < depth; ++i) {
    FloatLanes left;
    FloatLanes right;
    std::memcpy(&left, b + i * b_stride, sizeof(left));
    std::memcpy(&right, b + i * b_stride + kLanes, sizeof(right));
    for (std::size_t row = 0; row < kTileRows; ++row) {
      const float factor = a[row * a_stride + i];
      sums[row][0] += left * factor;
      sums[row][1] += right * factor;
    }
  }
  for (std::size_t row = 0; row < kTileRows; ++row)
    std::memcpy(c + row * c_stride, sums[row], sizeof(sums[row]));
}

/// One block of queries while it walks over the keys.
struct QueryBlock {
  const float* queries;  // [kQueryRows, pitch], rotated
  float* output;         // [kQueryRows, pitch], not yet divided by total
  std::size_t pitch;     // head_dim rounded up to kTileColumns
  std::size_t head_dim;
  std::size_t first_row;  // position of the first query
  float scale;
  float peak[kQueryRows];
  float total[kQueryRows];
  alignas(64) float scores[kQueryRows * kKeyRows];
};

/// The running softmax over one more block of scores: scores become weights, output and total are
/// rescaled.
AIRLOCK_INLINE void weigh_scores(QueryBlock& block, std::size_t first_key) {
  // Copies: a store to scores might change the block's fields for all the compiler knows, and loops
  // stay scalar.
  const float scale = block.scale;
  const std::size_t pitch = block.pitch;
  for (std::size_t row = 0; row < kQueryRows; ++row) {
    float* scores = block.scores + row * kKeyRows;
    const std::size_t visible = std::min(kKeyRows, block.first_row + row - first_key + 1);
    const float in_block = max_of(scores, visible) * scale;
    const float peak = in_block > block.peak[row] ? in_block : block.peak[row];
    const float correction = exp_f32(block.peak[row] - peak);
    for (std::size_t i = 0; i < kKeyRows; ++i) scores[i] = exp_f32(scores[i] * scale - peak);
    for (std::size_t i = visible; i < kKeyRows; ++i) scores[i] = 0.0F;
    block.peak[row] = peak;
    block.total[row] = block.total[row] * correction + sum_of(scores, kKeyRows);
    float* output = block.output + row * pitch;
    for (std::size_t i = 0; i < pitch; ++i) output[i] *= correction;
  }
}

/// keys: blocks of [head_dim, kKeyRows]; values [keys, pitch].
AIRLOCK_VECTORIZE void attend(QueryBlock& block, const float* keys, const float* values) {
  const std::size_t last_row = block.first_row + kQueryRows - 1;
  for (std::size_t first_key = 0; first_key <= last_row; first_key += kKeyRows) {
    std::memset(block.scores, 0, sizeof(block.scores));
    const float* key_block = keys + first_key * block.head_dim;
    for (std::size_t row = 0; row < kQueryRows; row += kTileRows) {
      for (std::size_t column = 0; column < kKeyRows; column += kTileColumns) {
        multiply_tile(block.queries + row * block.pitch, block.pitch, key_block + column, kKeyRows,
                      block.head_dim, block.scores + row * kKeyRows + column, kKeyRows);
      }
    }
    weigh_scores(block, first_key);
    const float* value_block = values + first_key * block.pitch;
    for (std::size_t row = 0; row < kQueryRows; row += kTileRows) {
      for (std::size_t column = 0; column < block.pitch; column += kTileColumns) {
        multiply_tile(block.scores + row * kKeyRows, kKeyRows, value_block + column, block.pitch,
                      kKeyRows, block.output + row * block.pitch + column, block.pitch);
      }
    }
  }
}

/// Private fp32 copies of one key-value head and of the query heads that share it, padded with
/// zeros.
struct GroupData {
  std::size_t tokens;
  std::size_t head_dim;
  std::size_t pitch;
  std::size_t query_heads;
  std::size_t query_rows;      // tokens rounded up to kQueryRows
  std::vector<float> queries;  // [query_heads, query_rows, pitch]
  std::vector<float> keys;     // blocks of [head_dim, kKeyRows]
  std::vector<float> values;   // [tokens rounded up, pitch]

  GroupData(const ModelDims& dims, std::size_t token_count)
      : tokens(token_count),
        head_dim(static_cast<std::size_t>(dims.head_dim)),
        pitch(round_up(head_dim, kTileColumns)),
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
  pool.parallel_for(data.tokens, [&](std::size_t begin, std::size_t end) {
    std::vector<float> line(data.query_heads * d);
    std::vector<float> rotated(d);
    for (std::size_t token = begin; token < end; ++token) {
      const float* cos = &table.cos[token * table.half];
      const float* sin = &table.sin[token * table.half];
      load_heads(q, token, group * data.query_heads, data.query_heads, d, line.data());
      for (std::size_t head = 0; head < data.query_heads; ++head) {
        rotate_head(line.data() + head * d, cos, sin, table.half,
                    &data.queries[(head * data.query_rows + token) * data.pitch]);
      }
      load_heads(k, token, group, 1, d, line.data());
      rotate_head(line.data(), cos, sin, table.half, rotated.data());
      float* column = &data.keys[token / kKeyRows * kKeyRows * d + token % kKeyRows];
      for (std::size_t i = 0; i < d; ++i) column[i * kKeyRows] = rotated[i];
      load_heads(v, token, group, 1, d, &data.values[token * data.pitch]);
    }
  });
}

}  // namespace

void blocked_attention(ThreadPool& pool, const ModelDims& dims, const RopeTable& table,
                       TensorView q, TensorView k, TensorView v, MutableTensorView out) {
  const auto tokens = static_cast<std::size_t>(out.desc.shape[0]);
  const auto width = static_cast<std::size_t>(out.desc.shape[1]);
  CHECK(q.desc.shape == out.desc.shape && k.desc.shape == v.desc.shape &&
        table.cos.size() >= tokens * table.half);
  CHECK(table.half * 2 == static_cast<std::size_t>(dims.head_dim));
  GroupData data(dims, tokens);
  const std::size_t element = dtype_bytes(out.desc.dtype);
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
        block.first_row = balanced_index(item % blocks, blocks) * kQueryRows;
        block.queries = &data.queries[(head * data.query_rows + block.first_row) * data.pitch];
        std::fill(output.begin(), output.end(), 0.0F);
        std::fill_n(block.peak, kQueryRows, -std::numeric_limits<float>::infinity());
        std::fill_n(block.total, kQueryRows, 0.0F);
        attend(block, data.keys.data(), data.values.data());
        for (std::size_t row = 0; row < kQueryRows && block.first_row + row < tokens; ++row) {
          float* line = output.data() + row * data.pitch;
          for (std::size_t i = 0; i < data.head_dim; ++i) line[i] /= block.total[row];
          const std::size_t offset =
              (block.first_row + row) * width + (group * data.query_heads + head) * data.head_dim;
          store_f32(out.desc.dtype, line, out.data + offset * element, data.head_dim);
        }
      }
    });
  }
}

}  // namespace airlock
