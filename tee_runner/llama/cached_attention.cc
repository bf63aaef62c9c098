#include "tee_runner/llama/cached_attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "base/check.h"
#include "base/convert.h"
#include "tee_runner/llama/attention_rows.h"
#include "tee_runner/llama/kernels.h"
#include "tee_runner/llama/vector_math.h"

namespace airlock {

namespace {

constexpr std::size_t kQueryRows = QueryBlock::kRows;
constexpr auto kBlock = static_cast<std::size_t>(kCacheBlockPositions);
// With less work than this another thread is awake too late.
constexpr std::size_t kProductsAlone = std::size_t{1} << 18;

/// What is the same for all sequences of a layer.
struct Layer {
  const RopeTable& table;
  std::int64_t index;
  std::size_t head_dim;
  std::size_t kv_heads;
  std::size_t group;  // query heads of a key-value head
  std::size_t pitch;  // of a row of queries, values and sums
  DType cached;
};

/// One piece of work: queries of one head at consecutive positions, or those of one token's heads
/// that share a key-value head.
struct Item {
  const SequenceRows* sequence;
  std::size_t first_head;
  std::size_t head_count;      // more than 1 of one token alone
  std::size_t first_position;  // a multiple of kQueryRows where there is one head
};

/// The elements of a row from `first` on.
const std::byte* elements_at(TensorView rows, std::size_t row, std::size_t first) {
  const auto width = static_cast<std::size_t>(rows.desc.shape[1]);
  return rows.data + (row * width + first) * dtype_bytes(rows.desc.dtype);
}

/// A tensor because its start is aligned for vectors.
Tensor zeros(std::size_t count) {
  return Tensor({DType::kF32, {static_cast<std::int64_t>(count)}});
}

/// Of one row, in its place behind its sequence's length.
void store_row(const Layer& layer, const SequenceRows& sequence, std::size_t row, TensorView keys,
               TensorView values) {
  SequenceCache& cache = *sequence.cache;
  const std::size_t d = layer.head_dim;
  const auto position = static_cast<std::size_t>(
      sequence.position() + static_cast<std::int64_t>(row) - sequence.first_row);
  const auto block = static_cast<std::int64_t>(position / kBlock);
  const std::size_t column = position % kBlock;
  const std::size_t element = dtype_bytes(layer.cached);
  std::vector<float> line(d);
  std::vector<std::byte> rounded(d * element);
  for (std::size_t head = 0; head < layer.kv_heads; ++head) {
    rotate_row(layer.table, position, keys.desc.dtype, elements_at(keys, row, head * d),
               line.data());
    store_f32(layer.cached, line.data(), rounded.data(), d);
    std::byte* const transposed =
        cache.keys(layer.index, static_cast<std::int64_t>(head), block) + column * element;
    for (std::size_t i = 0; i < d; ++i)
      std::memcpy(transposed + i * kBlock * element, rounded.data() + i * element, element);
    load_f32(values.desc.dtype, elements_at(values, row, head * d), line.data(), d);
    store_f32(layer.cached, line.data(),
              cache.values(layer.index, static_cast<std::int64_t>(head), block) +
                  column * layer.pitch * element,
              d);
  }
}

/// The scratch of one thread, and the walk of its items.
class Walker {
 public:
  Walker(const Layer& layer, TensorView q, MutableTensorView out)
      : layer_(layer),
        q_(q),
        out_(out),
        queries_(zeros(kQueryRows * layer.pitch)),
        output_(zeros(kQueryRows * layer.pitch)) {
    if (layer.cached != DType::kF32) {
      keys_ = zeros(layer.head_dim * kBlock);
      values_ = zeros(kBlock * layer.pitch);
    }
    block_.queries = queries_.as<float>().data();
    block_.output = output_.as<float>().data();
    block_.pitch = layer.pitch;
    block_.head_dim = layer.head_dim;
    block_.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(layer.head_dim)));
  }

  void attend(const Item& item) {
    const SequenceRows& sequence = *item.sequence;
    const auto start = static_cast<std::size_t>(sequence.position());
    const std::size_t end = start + static_cast<std::size_t>(sequence.row_count);
    const bool one_token = item.head_count > 1;
    block_.first_position = item.first_position;
    block_.position_step = one_token ? 0 : 1;
    block_.first_row = one_token ? 0 : std::max(item.first_position, start) - item.first_position;
    block_.end_row = one_token ? item.head_count : std::min(kQueryRows, end - item.first_position);
    for (std::size_t row = block_.first_row; row < block_.end_row; ++row) {
      rotate_row(layer_.table, item.first_position + row * block_.position_step, q_.desc.dtype,
                 elements_at(q_, row_of(item, row), head_of(item, row) * layer_.head_dim),
                 queries_.as<float>().data() + row * layer_.pitch);
    }
    block_.begin();
    const std::size_t last = item.first_position + (block_.end_row - 1) * block_.position_step;
    const auto head = static_cast<std::int64_t>(item.first_head / layer_.group);
    for (std::size_t first_key = 0; first_key <= last; first_key += kBlock)
      take_keys(*sequence.cache, head, first_key, first_key + kBlock <= last);
    store(item);
  }

 private:
  std::size_t row_of(const Item& item, std::size_t row) const {
    const auto first = static_cast<std::size_t>(item.sequence->first_row);
    if (block_.position_step == 0) return first;
    return first + item.first_position + row - static_cast<std::size_t>(item.sequence->position());
  }
  std::size_t head_of(const Item& item, std::size_t row) const {
    return item.first_head + (block_.position_step == 0 ? row : 0);
  }

  /// Of few rows the block behind is fetched meanwhile, where there is one.
  void take_keys(SequenceCache& cache, std::int64_t head, std::size_t first_key, bool is_followed) {
    const auto block = static_cast<std::int64_t>(first_key / kBlock);
    const std::byte* const keys = cache.keys(layer_.index, head, block);
    const std::byte* const values = cache.values(layer_.index, head, block);
    const bool is_few = block_.end_row - block_.first_row <= QueryBlock::kFewRows;
    const bool fetches = is_few && is_followed;
    block_.next_keys = fetches ? cache.keys(layer_.index, head, block + 1) : nullptr;
    block_.next_values = fetches ? cache.values(layer_.index, head, block + 1) : nullptr;
    if (layer_.cached == DType::kF32) {
      vector_math().attend(block_, first_key, reinterpret_cast<const float*>(keys),
                           reinterpret_cast<const float*>(values));
      return;
    }
    if (is_few) {
      vector_math().attend_bf16(block_, first_key, reinterpret_cast<const std::uint16_t*>(keys),
                                reinterpret_cast<const std::uint16_t*>(values));
      return;
    }
    const std::span<float> wide_keys = keys_.as<float>();
    const std::span<float> wide_values = values_.as<float>();
    load_f32(layer_.cached, keys, wide_keys.data(), wide_keys.size());
    load_f32(layer_.cached, values, wide_values.data(), wide_values.size());
    vector_math().attend(block_, first_key, wide_keys.data(), wide_values.data());
  }

  void store(const Item& item) {
    const auto width = static_cast<std::size_t>(out_.desc.shape[1]);
    for (std::size_t row = block_.first_row; row < block_.end_row; ++row) {
      const std::size_t at = row_of(item, row) * width + head_of(item, row) * layer_.head_dim;
      finish_row(block_, row, out_.desc.dtype, out_.data + at * dtype_bytes(out_.desc.dtype));
    }
  }

  const Layer& layer_;
  const TensorView q_;
  const MutableTensorView out_;
  Tensor queries_;  // [kQueryRows, pitch], rotated
  Tensor output_;   // [kQueryRows, pitch]
  Tensor keys_;     // of one block, where the cache is not fp32
  Tensor values_;
  QueryBlock block_;
};

std::vector<Item> items_of(const Layer& layer, std::span<const SequenceRows> sequences) {
  const std::size_t heads = layer.kv_heads * layer.group;
  std::vector<Item> items;
  for (const SequenceRows& sequence : sequences) {
    const auto start = static_cast<std::size_t>(sequence.position());
    const std::size_t end = start + static_cast<std::size_t>(sequence.row_count);
    if (sequence.row_count == 1 && layer.group > 1) {
      for (std::size_t first = 0; first < heads; first += layer.group) {
        for (std::size_t done = 0; done < layer.group; done += kQueryRows) {
          items.push_back(
              {&sequence, first + done, std::min(kQueryRows, layer.group - done), start});
        }
      }
      continue;
    }
    const std::size_t first_block = start / kQueryRows * kQueryRows;
    const std::size_t blocks = (end - first_block + kQueryRows - 1) / kQueryRows;
    for (std::size_t head = 0; head < heads; ++head) {
      for (std::size_t i = 0; i < blocks; ++i)
        items.push_back({&sequence, head, 1, first_block + balanced_index(i, blocks) * kQueryRows});
    }
  }
  return items;
}

/// Multiplications of queries with keys, about; there are as many of scores with values.
std::size_t products_of(const Layer& layer, std::span<const SequenceRows> sequences) {
  std::size_t products = 0;
  for (const SequenceRows& sequence : sequences) {
    const std::int64_t end = sequence.position() + sequence.row_count;
    products += static_cast<std::size_t>(sequence.row_count * end) * layer.kv_heads * layer.group *
                layer.head_dim;
  }
  return products;
}

}  // namespace

void cached_attention(ThreadPool& pool, const RopeTable& table, std::int64_t layer, TensorView q,
                      TensorView keys, TensorView values, std::span<const SequenceRows> sequences,
                      MutableTensorView out) {
  if (sequences.empty()) return;
  const CacheMemory& memory = sequences.front().cache->memory();
  const ModelDims& dims = memory.dims();
  CHECK(q.desc.shape == out.desc.shape && q.desc.shape[1] == dims.heads * dims.head_dim);
  CHECK(keys.desc.shape == values.desc.shape && keys.desc.shape[0] == q.desc.shape[0] &&
        keys.desc.shape[1] == dims.kv_heads * dims.head_dim);
  const Layer of{table,
                 layer,
                 static_cast<std::size_t>(dims.head_dim),
                 static_cast<std::size_t>(dims.kv_heads),
                 static_cast<std::size_t>(dims.heads / dims.kv_heads),
                 sequences.front().cache->value_pitch(),
                 memory.dtype()};
  for (const SequenceRows& sequence : sequences) {
    const std::int64_t end = sequence.position() + sequence.row_count;
    CHECK(sequence.row_count > 0 && sequence.first_row + sequence.row_count <= q.desc.shape[0]);
    CHECK(&sequence.cache->memory() == &memory);
    CHECK(table.half * 2 == of.head_dim &&
          table.cos.size() >= static_cast<std::size_t>(end) * table.half);
    pool.parallel_for(static_cast<std::size_t>(sequence.row_count),
                      [&](std::size_t begin, std::size_t stop) {
                        const auto first = static_cast<std::size_t>(sequence.first_row);
                        for (std::size_t row = begin; row < stop; ++row)
                          store_row(of, sequence, first + row, keys, values);
                      });
  }
  const std::vector<Item> items = items_of(of, sequences);
  const auto attend = [&](std::size_t begin, std::size_t end) {
    Walker walker(of, q, out);
    for (std::size_t i = begin; i < end; ++i) walker.attend(items[i]);
  };
  if (products_of(of, sequences) <= kProductsAlone) return attend(0, items.size());
  pool.parallel_for(items.size(), attend);
}

}  // namespace airlock
