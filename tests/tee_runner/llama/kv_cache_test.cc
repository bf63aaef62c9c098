#include "tee_runner/llama/kv_cache.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <utility>

#include "base/convert.h"
#include "proto/limits.h"
#include "tee_runner/llama/kernels.h"

namespace airlock {
namespace {

constexpr ModelDims kDims{.hidden = 32,
                          .intermediate = 48,
                          .layers = 3,
                          .heads = 4,
                          .kv_heads = 2,
                          .head_dim = 10,
                          .vocab = 50};

TEST(KvCache, has_keys_and_values_of_its_own_for_each_layer) {
  auto cache = KvCache::create(kDims, DType::kBF16, 7);
  ASSERT_TRUE(cache.ok()) << cache.status().to_string();
  EXPECT_EQ(cache->capacity(), 7);
  EXPECT_EQ(cache->length(), 0);
  EXPECT_EQ(cache->layers(), 3);
  EXPECT_TRUE((cache->desc() == TensorDesc{DType::kBF16, {2, 7, 10}}));
  EXPECT_EQ(cache->bytes(), 3U * 2 * 2 * 7 * 10 * 2);
  int filled = 0;
  for (std::int64_t layer = 0; layer < 3; ++layer) {
    std::memset(cache->keys(layer).data, ++filled, cache->desc().bytes());
    std::memset(cache->values(layer).data, ++filled, cache->desc().bytes());
  }
  int expected = 0;
  for (std::int64_t layer = 0; layer < 3; ++layer) {
    for (const TensorView part : {TensorView(cache->keys(layer)), TensorView(cache->values(layer))})
      EXPECT_THAT(part.bytes(), testing::Each(std::byte(++expected))) << "layer " << layer;
  }
}

/// [tokens, kv_heads * head_dim] of different values.
Tensor numbered(std::int64_t tokens, float first) {
  Tensor exact({DType::kF32, {tokens, 20}});
  for (float& value : exact.as<float>()) value = first++;
  Tensor rounded({DType::kF16, {tokens, 20}});
  convert(exact.view(), rounded.mutable_view());
  return rounded;
}

TEST(KvCache, stores_behind_its_length_and_gives_back_whole_heads) {
  LlamaConfig config;
  config.dims = kDims;
  RopeTable table;
  extend_rope_table(config, 6, table);
  const auto owned_pool = ThreadPool::create(2).value();
  ThreadPool& pool = *owned_pool;
  const Tensor rows = numbered(5, 0);
  const Tensor first = numbered(2, 0);
  const Tensor rest = numbered(3, 40);
  for (const DType dtype : {DType::kF16, DType::kF32}) {
    auto cache = KvCache::create(kDims, dtype, 6);
    ASSERT_TRUE(cache.ok());
    for (const Tensor* piece : {&first, &rest}) {
      cache->store_keys(pool, table, 1, piece->view());
      cache->store_values(pool, 1, piece->view());
      cache->extend(piece->desc().shape[0]);
    }
    Tensor rotated({dtype, {2, 5, 10}});
    rotate_heads(pool, table, rows.view(), {0, 2, 0, 5}, 0, rotated.mutable_view());
    Tensor split({dtype, {2, 5, 10}});
    split_heads(pool, rows.view(), {0, 2, 0, 5}, split.mutable_view());
    for (const std::int64_t head : {0, 1}) {
      Tensor keys({dtype, {2 - head, 4, 10}});
      Tensor values({dtype, {2 - head, 4, 10}});
      cache->copy_keys(pool, 1, head, keys.mutable_view());
      cache->copy_values(pool, 1, head, values.mutable_view());
      const std::size_t head_bytes = 4 * 10 * dtype_bytes(dtype);
      for (std::int64_t i = head; i < 2; ++i) {
        const std::size_t at = static_cast<std::size_t>(i - head) * head_bytes;
        const std::size_t expected = static_cast<std::size_t>(i) * 5 * 10 * dtype_bytes(dtype);
        EXPECT_EQ(std::memcmp(keys.view().data + at, rotated.view().data + expected, head_bytes),
                  0);
        EXPECT_EQ(std::memcmp(values.view().data + at, split.view().data + expected, head_bytes),
                  0);
      }
    }
  }
}

TEST(KvCache, of_one_layer_serves_them_all_in_turn) {
  ModelDims one = kDims;
  one.layers = 1;
  auto cache = KvCache::create(one, DType::kF16, 2);
  ASSERT_TRUE(cache.ok());
  const auto owned_pool = ThreadPool::create(1).value();
  ThreadPool& pool = *owned_pool;
  cache->store_values(pool, 0, numbered(2, 0).view());
  cache->store_values(pool, 7, numbered(2, 9).view());
  Tensor last({DType::kF16, {2, 2, 10}});
  split_heads(pool, numbered(2, 9).view(), {0, 2, 0, 2}, last.mutable_view());
  Tensor got({DType::kF16, {2, 2, 10}});
  cache->copy_values(pool, 7, 0, got.mutable_view());
  EXPECT_EQ(std::memcmp(got.view().data, last.view().data, got.desc().bytes()), 0);
}

TEST(KvCache, grows_and_is_cut_back_within_its_capacity) {
  auto cache = KvCache::create(kDims, DType::kF32, 5);
  ASSERT_TRUE(cache.ok());
  cache->extend(3);
  cache->extend(2);
  EXPECT_EQ(cache->length(), 5);
  cache->truncate(5);
  cache->truncate(1);
  EXPECT_EQ(cache->length(), 1);
  cache->extend(4);
  EXPECT_EQ(cache->length(), 5);
}

TEST(KvCache, keeps_what_it_holds_where_it_is_moved) {
  auto cache = KvCache::create(kDims, DType::kF32, 5);
  ASSERT_TRUE(cache.ok());
  cache->extend(2);
  cache->keys(2).as<float>()[0] = 7;
  KvCache moved = std::move(*cache);
  EXPECT_EQ(moved.length(), 2);
  EXPECT_EQ(moved.keys(2).as<float>()[0], 7);
}

TEST(KvCacheDeathTest, is_never_longer_than_its_capacity_or_cut_back_to_more) {
  auto cache = KvCache::create(kDims, DType::kF32, 5);
  ASSERT_TRUE(cache.ok());
  cache->extend(4);
  EXPECT_DEATH(cache->extend(2), "");
  EXPECT_DEATH(cache->truncate(5), "");
}

TEST(KvCache, refuses_a_capacity_that_no_prompt_has_and_types_that_are_no_floats) {
  for (const std::int64_t capacity : {std::int64_t{0}, std::int64_t{-1}, limits::kMaxTokens + 1})
    EXPECT_EQ(KvCache::create(kDims, DType::kF32, capacity).status().code(),
              StatusCode::kInvalidInput);
  EXPECT_EQ(KvCache::create(kDims, DType::kI32, 5).status().code(), StatusCode::kInvalidInput);
}

TEST(KvCache, says_what_one_that_is_too_large_would_take) {
  const ModelDims largest{limits::kMaxHidden, limits::kMaxIntermediate, limits::kMaxLayers,
                          limits::kMaxHeads,  limits::kMaxHeads,        limits::kMaxHeadDim,
                          limits::kMaxVocab};
  const auto cache = KvCache::create(largest, DType::kF32, limits::kMaxTokens);
  ASSERT_FALSE(cache.ok());
  EXPECT_EQ(cache.status().code(), StatusCode::kResourceExhausted);
  EXPECT_THAT(cache.status().message(),
              testing::HasSubstr("131072 positions takes 562949953421312 bytes"));
}

}  // namespace
}  // namespace airlock
