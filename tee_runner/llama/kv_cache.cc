#include "tee_runner/llama/kv_cache.h"

#include <fmt/format.h>

#include <cstdlib>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "proto/limits.h"
#include "tee_runner/llama/kernels.h"

namespace airlock {

namespace {
constexpr std::size_t kAlignment = 64;
}  // namespace

Result<KvCache> KvCache::create(const ModelDims& dims, DType dtype, std::int64_t capacity) {
  RETURN_IF_ERROR(dims.check());
  if (!is_model_float(dtype) || capacity < 1 || capacity > limits::kMaxTokens) {
    return Status(StatusCode::kInvalidInput,
                  "a key-value cache holds floats of 1 to {} positions, not {} of {}",
                  limits::kMaxTokens, name_of(dtype), capacity);
  }
  // The limits on dims keep this product below 2^64.
  const TensorDesc desc{dtype, {dims.kv_heads, capacity, dims.head_dim}};
  const std::uint64_t bytes = 2 * static_cast<std::uint64_t>(dims.layers) * desc.bytes();
  const std::uint64_t whole = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  Memory memory;
  if (bytes <= kMaxKvCacheBytes)
    memory.reset(static_cast<std::byte*>(std::aligned_alloc(kAlignment, whole)));
  if (!memory) {
    return Status(StatusCode::kResourceExhausted,
                  "a key-value cache of {} positions takes {} bytes, {}", capacity, bytes,
                  bytes > kMaxKvCacheBytes ? fmt::format("at most {} are allowed", kMaxKvCacheBytes)
                                           : std::string("more than there is"));
  }
  return KvCache(dims.layers, desc, std::move(memory));
}

Status KvCache::check_room(const ModelDims& dims, DType dtype, std::size_t count) const {
  if (!(desc_ == TensorDesc{dtype, {dims.kv_heads, capacity(), dims.head_dim}}) ||
      layers_ != dims.layers) {
    return {StatusCode::kInvalidInput,
            "the key-value cache was made for another model or another attention"};
  }
  const auto left = static_cast<std::size_t>(capacity() - length_);
  if (count <= left) return {};
  return {StatusCode::kResourceExhausted,
          "{} tokens do not fit: the key-value cache has {} of its {} positions left", count, left,
          capacity()};
}

void KvCache::store_keys(ThreadPool& pool, const RopeTable& table, std::int64_t layer,
                         TensorView keys, std::int64_t first_row) {
  const std::int64_t position = length_ + first_row;
  rotate_heads(pool, table, keys, {0, desc_.shape[0], 0, keys.desc.shape[0], position}, position,
               this->keys(layer));
}

void KvCache::store_values(ThreadPool& pool, std::int64_t layer, TensorView values,
                           std::int64_t first_row) {
  split_heads(pool, values, {0, desc_.shape[0], 0, values.desc.shape[0], length_ + first_row},
              this->values(layer));
}

void KvCache::copy(ThreadPool& pool, TensorView from, std::int64_t first_head,
                   MutableTensorView out) {
  const Shape& there = from.desc.shape;
  const Shape& here = out.desc.shape;
  CHECK(from.desc.dtype == out.desc.dtype && first_head + here[0] <= there[0]);
  CHECK(here[1] <= there[1] && here[2] == there[2]);
  const std::size_t head_bytes = from.desc.bytes() / static_cast<std::size_t>(there[0]);
  const std::size_t out_bytes = out.desc.bytes() / static_cast<std::size_t>(here[0]);
  const std::byte* first = from.data + static_cast<std::size_t>(first_head) * head_bytes;
  pool.parallel_for(static_cast<std::size_t>(here[0]), [&](std::size_t begin, std::size_t end) {
    for (std::size_t head = begin; head < end; ++head)
      std::memcpy(out.data + head * out_bytes, first + head * head_bytes, out_bytes);
  });
}

void KvCache::extend(std::int64_t count) {
  CHECK(count >= 0 && count <= capacity() - length_);
  length_ += count;
}

void KvCache::truncate(std::int64_t length) {
  CHECK(length >= 0 && length <= length_);
  length_ = length;
}

void KvCache::Free::operator()(std::byte* data) const { std::free(data); }

}  // namespace airlock
