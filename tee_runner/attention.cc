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
/// zeros. Blocks of queries begin at multiples of kQueryRows, those of keys at multiples of
/// kKeyRows, wherever a pass begins: a row's bits do not depend on that.
struct GroupData {
  std::size_t position;  // of the first query
  std::size_t end;       // behind the last query and key
  std::size_t head_dim;
  std::size_t pitch;
  std::size_t query_heads;
  std::size_t first_block;     // position rounded down to kQueryRows
  std::size_t query_rows;      // from there to end rounded up
  std::vector<float> queries;  // [query_heads, query_rows, pitch], rotated
  std::vector<float> keys;     // blocks of [head_dim, kKeyRows]
  std::vector<float> values;   // [end rounded up, pitch]

  GroupData(std::size_t first, std::size_t tokens, std::size_t heads, std::size_t width)
      : position(first),
        end(first + tokens),
        head_dim(width),
        pitch(round_up(width, kTileColumns)),
        query_heads(heads),
        first_block(first / kQueryRows * kQueryRows),
        query_rows(round_up(end, kQueryRows) - first_block),
        queries(query_heads * query_rows * pitch),
        keys(round_up(end, kKeyRows) * head_dim),
        values(round_up(end, kKeyRows) * pitch) {}
};

/// The row of `head` at `position` in a cache's keys or values, as fp32.
void load_cached(TensorView cached, std::size_t head, std::size_t position, float* out) {
  const auto width = static_cast<std::size_t>(cached.desc.shape[2]);
  const std::size_t row = head * static_cast<std::size_t>(cached.desc.shape[1]) + position;
  load_f32(cached.desc.dtype, cached.data + row * width * dtype_bytes(cached.desc.dtype), out,
           width);
}

void pack_group(ThreadPool& pool, const RopeTable& table, TensorView q, TensorView keys,
                TensorView values, std::size_t group, GroupData& data) {
  const std::size_t d = data.head_dim;
  const std::size_t heads = data.query_heads;
  const std::size_t width = static_cast<std::size_t>(q.desc.shape[1]);
  pool.parallel_for(data.end, [&](std::size_t begin, std::size_t end) {
    std::vector<float> line(heads * d);
    for (std::size_t at = begin; at < end; ++at) {
      load_cached(keys, group, at, line.data());
      float* column = &data.keys[at / kKeyRows * kKeyRows * d + at % kKeyRows];
      for (std::size_t i = 0; i < d; ++i) column[i * kKeyRows] = line[i];
      load_cached(values, group, at, &data.values[at * data.pitch]);
      if (at < data.position) continue;
      const std::size_t first = (at - data.position) * width + group * heads * d;
      load_f32(q.desc.dtype, q.data + first * dtype_bytes(q.desc.dtype), line.data(), heads * d);
      for (std::size_t head = 0; head < heads; ++head) {
        rotate_head(line.data() + head * d, &table.cos[at * table.half],
                    &table.sin[at * table.half], table.half,
                    &data.queries[(head * data.query_rows + at - data.first_block) * data.pitch]);
      }
    }
  });
}

}  // namespace

void blocked_attention(ThreadPool& pool, const RopeTable& table, TensorView q,
                       std::int64_t position, TensorView keys, TensorView values,
                       MutableTensorView out) {
  const Shape& cached = keys.desc.shape;
  CHECK(q.desc.shape == out.desc.shape && keys.desc == values.desc);
  const std::int64_t heads = q.desc.shape[1] / cached[2];
  CHECK(heads * cached[2] == q.desc.shape[1] && heads % cached[0] == 0);
  GroupData data(static_cast<std::size_t>(position), static_cast<std::size_t>(q.desc.shape[0]),
                 static_cast<std::size_t>(heads / cached[0]), static_cast<std::size_t>(cached[2]));
  CHECK(data.end <= static_cast<std::size_t>(cached[1]));
  CHECK(table.half * 2 == data.head_dim && table.cos.size() >= data.end * table.half);
  const std::size_t width = static_cast<std::size_t>(q.desc.shape[1]);
  const std::size_t element = dtype_bytes(out.desc.dtype);
  const std::size_t blocks = data.query_rows / kQueryRows;
  for (std::size_t group = 0; group < static_cast<std::size_t>(cached[0]); ++group) {
    pack_group(pool, table, q, keys, values, group, data);
    pool.parallel_for(data.query_heads * blocks, [&](std::size_t begin, std::size_t end) {
      std::vector<float> output(kQueryRows * data.pitch);
      QueryBlock block;
      block.output = output.data();
      block.pitch = data.pitch;
      block.head_dim = data.head_dim;
      block.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(data.head_dim)));
      for (std::size_t item = begin; item < end; ++item) {
        const std::size_t head = item / blocks;
        const std::size_t first = balanced_index(item % blocks, blocks) * kQueryRows;
        block.first_row = data.first_block + first;
        block.queries = &data.queries[(head * data.query_rows + first) * data.pitch];
        std::fill(output.begin(), output.end(), 0.0F);
        std::fill_n(block.peak, kQueryRows, -std::numeric_limits<float>::infinity());
        std::fill_n(block.total, kQueryRows, 0.0F);
        attend(block, data.keys.data(), data.values.data());
        const std::size_t from = std::max(block.first_row, data.position);
        const std::size_t to = std::min(block.first_row + kQueryRows, data.end);
        for (std::size_t at = from; at < to; ++at) {
          float* line = output.data() + (at - block.first_row) * data.pitch;
          for (std::size_t i = 0; i < data.head_dim; ++i)
            line[i] /= block.total[at - block.first_row];
          const std::size_t offset =
              (at - data.position) * width + (group * data.query_heads + head) * data.head_dim;
          store_f32(out.desc.dtype, line, out.data + offset * element, data.head_dim);
        }
      }
    });
  }
}

}  // namespace airlock
