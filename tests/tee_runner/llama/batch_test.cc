// Several sequences in one pass: what each gets is what it gets alone.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <deque>
#include <random>
#include <vector>

#include "proto/limits.h"
#include "tee_runner/llama/driver.h"
#include "tests/tee_runner/naive_backend.h"

namespace airlock {
namespace {

constexpr std::int64_t kVocab = 50;

LlamaConfig config_of(std::int64_t heads, std::int64_t kv_heads, std::int64_t head_dim) {
  LlamaConfig config;
  config.dims = {32, 48, 2, heads, kv_heads, head_dim, kVocab};
  config.rms_norm_eps = 1e-5;
  return config;
}

Tensor copy_of(const Tensor& tensor) {
  Tensor copy(tensor.desc());
  std::memcpy(copy.mutable_view().data, tensor.view().data, tensor.desc().bytes());
  return copy;
}

std::vector<std::int32_t> tokens_of(std::size_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<std::int32_t> tokens(count);
  for (std::int32_t& token : tokens) token = static_cast<std::int32_t>(random() % kVocab);
  return tokens;
}

std::span<const float> row(const Tensor& logits, std::size_t index) {
  return logits.as<float>().subspan(index * kVocab, kVocab);
}

struct Rig {
  explicit Rig(const LlamaConfig& config, DType cached = DType::kF32,
               std::uint64_t bytes = std::uint64_t{64} << 20, std::int64_t tile = 0)
      : model(config),
        backend(model),
        memory(CacheMemory::create(config.dims, cached, bytes).value()) {
    LlamaOptions options;
    options.attention = Attention::kTee;
    options.logits = Logits::kAll;
    options.threads = 2;
    options.tile = tile;
    driver =
        LlamaDriver::create(model.config, copy_of(model.norms), options, backend, stats).value();
  }
  SequenceCache cache(std::int64_t positions) {
    SequenceCache made(memory);
    EXPECT_TRUE(made.promise(positions).ok());
    return made;
  }

  RandomModel model;
  NaiveBackend backend;
  TeeStatsTable stats;
  std::shared_ptr<CacheMemory> memory;
  std::unique_ptr<LlamaDriver> driver;
};

/// A sequence under way: its whole text, and the logits of each token alone.
struct Sequence {
  std::vector<std::int32_t> tokens;
  Tensor alone;
  SequenceCache cache;

  std::size_t done() const { return static_cast<std::size_t>(cache.length()); }
};

class Batch : public testing::TestWithParam<LlamaConfig> {};

TEST_P(Batch, gives_each_sequence_the_bits_that_it_has_alone) {
  Rig rig(GetParam());
  std::mt19937 random(7);
  std::deque<Sequence> sequences;  // they join and leave at any step
  for (unsigned step = 0, made = 0; step < 60 || !sequences.empty(); ++step) {
    if (step < 60 && sequences.size() < 5 && random() % 2 == 0) {
      auto tokens = tokens_of(1 + random() % 150, ++made);
      const auto room = static_cast<std::int64_t>(tokens.size());
      Tensor alone = rig.driver->prefill(tokens).value();
      sequences.push_back({std::move(tokens), std::move(alone), rig.cache(room)});
    }
    std::vector<SequencePass> passes;
    std::vector<std::pair<Sequence*, bool>> asked;
    for (Sequence& sequence : sequences) {
      const std::size_t left = sequence.tokens.size() - sequence.done();
      const std::size_t count =
          random() % 3 == 0 ? std::min<std::size_t>(left, 1 + random() % 70) : 1;
      const bool wants = random() % 4 != 0;
      passes.push_back(
          {std::span(sequence.tokens).subspan(sequence.done(), count), &sequence.cache, wants});
      asked.emplace_back(&sequence, wants);
    }
    if (passes.empty()) continue;
    const auto logits = rig.driver->forward(passes);
    ASSERT_TRUE(logits.ok()) << logits.status().to_string();
    std::size_t at = 0;
    for (const auto& [sequence, wants] : asked) {
      if (!wants) continue;
      ASSERT_TRUE(
          std::ranges::equal(row(*logits, at++), row(sequence->alone, sequence->done() - 1)))
          << "step " << step << ", position " << sequence->done();
    }
    EXPECT_EQ(logits->desc().shape[0], static_cast<std::int64_t>(at));
    std::erase_if(sequences, [](const Sequence& s) { return s.done() == s.tokens.size(); });
  }
  EXPECT_EQ(rig.memory->free_blocks(), rig.memory->block_count());
}

INSTANTIATE_TEST_SUITE_P(Heads, Batch,
                         testing::Values(config_of(4, 2, 10), config_of(4, 1, 6),
                                         config_of(2, 2, 32), config_of(40, 1, 4)));

TEST(BatchedPass, in_tiles_gives_the_bits_of_all_rows_at_once) {
  for (const LlamaConfig& config : {config_of(4, 2, 10), config_of(4, 1, 6)}) {
    for (const std::int64_t tile :
         {std::int64_t{1}, std::int64_t{7}, std::int64_t{32}, kAutoTile}) {
      Rig whole(config);
      Rig tiled(config, DType::kF32, std::uint64_t{64} << 20, tile);
      // Tiles end within sequences, and have several of them.
      const std::vector<std::size_t> counts = {70, 1, 33, 2, 90};
      std::vector<std::vector<std::int32_t>> texts;
      std::deque<SequenceCache> caches;
      for (std::size_t i = 0; i < counts.size(); ++i) {
        texts.push_back(tokens_of(counts[i] + 1, static_cast<unsigned>(i) + 1));
        for (Rig* rig : {&whole, &tiled})
          caches.push_back(rig->cache(static_cast<std::int64_t>(counts[i]) + 1));
      }
      // What the second pass gives shows what the first one left in the caches.
      for (const bool is_second : {false, true}) {
        std::vector<SequencePass> passes[2];
        for (std::size_t i = 0; i < counts.size(); ++i) {
          const auto text = std::span<const std::int32_t>(texts[i]);
          const auto tokens = is_second ? text.last(1) : text.first(counts[i]);
          for (std::size_t rig = 0; rig < 2; ++rig)
            passes[rig].push_back({tokens, &caches[2 * i + rig], is_second || i != 2});
        }
        const auto expected = whole.driver->forward(passes[0]);
        const auto got = tiled.driver->forward(passes[1]);
        ASSERT_TRUE(expected.ok() && got.ok()) << got.status().to_string();
        EXPECT_TRUE(std::ranges::equal(got->as<float>(), expected->as<float>())) << tile;
      }
    }
  }
}

TEST(BatchedPass, goes_on_behind_a_prefix_that_was_kept) {
  Rig rig(config_of(4, 2, 10));
  const auto text = tokens_of(100, 1);
  SequenceCache cache = rig.cache(140);
  ASSERT_TRUE(rig.driver->forward(std::vector<SequencePass>{{text, &cache, false}}).ok());
  auto other = std::vector(text.begin(), text.begin() + 70);
  const auto more = tokens_of(60, 2);
  other.insert(other.end(), more.begin(), more.end());
  cache.truncate(70);
  const auto got =
      rig.driver->forward(std::vector<SequencePass>{{std::span(other).subspan(70), &cache, true}});
  const Tensor alone = rig.driver->prefill(other).value();
  EXPECT_TRUE(std::ranges::equal(row(*got, 0), row(alone, other.size() - 1)));
}

TEST(BatchedPass, with_a_bf16_cache_stays_near_the_exact_one) {
  Rig exact(config_of(4, 2, 10));
  Rig rounded(config_of(4, 2, 10), DType::kBF16);
  const auto text = tokens_of(90, 3);
  const Tensor expected = exact.driver->prefill(text).value();
  SequenceCache cache = rounded.cache(90);
  double worst = 0;
  double largest = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto logits = rounded.driver->forward(
        std::vector<SequencePass>{{std::span(text).subspan(i, 1), &cache, true}});
    ASSERT_TRUE(logits.ok());
    for (std::size_t j = 0; j < kVocab; ++j) {
      const double want = row(expected, i)[j];
      worst = std::max(worst, std::abs(row(*logits, 0)[j] - want));
      largest = std::max(largest, std::abs(want));
    }
  }
  EXPECT_GT(worst, 0);
  EXPECT_LE(worst / largest, 2e-2);
}

TEST(BatchedPass, that_fails_leaves_all_caches_as_they_were) {
  Rig rig(config_of(4, 2, 10));
  const auto text = tokens_of(30, 4);
  SequenceCache one = rig.cache(64);
  SequenceCache other = rig.cache(64);
  ASSERT_TRUE(
      rig.driver->forward(std::vector<SequencePass>{{std::span(text).first(5), &one, false}}).ok());
  const std::vector<SequencePass> next = {{std::span(text).subspan(5, 1), &one, true},
                                          {std::span(text).first(9), &other, true}};
  rig.backend.fail_op = Op::kLmHead;
  EXPECT_FALSE(rig.driver->forward(next).ok());
  EXPECT_EQ(one.length(), 5);
  EXPECT_EQ(other.length(), 0);
  rig.backend.fail_op = Op::kPing;
  const auto logits = rig.driver->forward(next);
  ASSERT_TRUE(logits.ok());
  const Tensor alone = rig.driver->prefill(std::span(text).first(9)).value();
  EXPECT_TRUE(std::ranges::equal(row(*logits, 0), row(alone, 5)));
  EXPECT_TRUE(std::ranges::equal(row(*logits, 1), row(alone, 8)));
}

TEST(BatchedPass, refuses_tokens_of_no_vocabulary_and_more_than_was_promised) {
  Rig rig(config_of(4, 2, 10));
  SequenceCache cache = rig.cache(64);
  const std::vector<std::int32_t> bad = {1, kVocab};
  EXPECT_EQ(rig.driver->forward(std::vector<SequencePass>{{bad, &cache, true}}).status().code(),
            StatusCode::kInvalidInput);
  EXPECT_EQ(rig.driver->forward(std::span<const SequencePass>()).status().code(),
            StatusCode::kInvalidInput);
  const auto text = tokens_of(65, 5);
  EXPECT_EQ(rig.driver->forward(std::vector<SequencePass>{{text, &cache, true}}).status().code(),
            StatusCode::kResourceExhausted);
  EXPECT_EQ(cache.length(), 0);
}

TEST(CacheMemory, is_bounded_and_given_back) {
  const ModelDims dims = config_of(4, 2, 10).dims;
  // 2 layers, 2 heads, keys of 10 and values of 32 floats at 64 positions.
  constexpr std::uint64_t kBlock = 2 * 2 * (10 + 32) * 64 * 4;
  EXPECT_EQ(CacheMemory::create(dims, DType::kF32, kBlock - 1).status().code(),
            StatusCode::kResourceExhausted);
  EXPECT_EQ(CacheMemory::create(dims, DType::kF16, kBlock).status().code(),
            StatusCode::kInvalidInput);
  const auto memory = CacheMemory::create(dims, DType::kF32, 3 * kBlock + 5).value();
  EXPECT_EQ(memory->block_bytes(), kBlock);
  EXPECT_EQ(memory->block_count(), 3u);
  SequenceCache one(memory);
  ASSERT_TRUE(one.promise(65).ok());
  SequenceCache other(memory);
  EXPECT_EQ(other.promise(65).code(), StatusCode::kResourceExhausted);
  ASSERT_TRUE(other.promise(64).ok());
  EXPECT_EQ(memory->free_blocks(), 0u);
  EXPECT_EQ(memory->used_bytes(), 0u);
  ASSERT_TRUE(one.grow(1).ok());
  one.extend(1);
  EXPECT_EQ(memory->used_bytes(), kBlock);
  one.shrink();
  EXPECT_EQ(memory->free_blocks(), 1u);
  SequenceCache moved = std::move(one);
  EXPECT_EQ(moved.length(), 1);
  moved.clear();
  other.clear();
  EXPECT_EQ(memory->free_blocks(), 3u);
  EXPECT_EQ(memory->used_bytes(), 0u);
}

TEST(CacheMemory, what_a_prefix_left_behind_it_is_gone) {
  const auto memory =
      CacheMemory::create(config_of(4, 2, 10).dims, DType::kF32, std::uint64_t{1} << 20).value();
  SequenceCache one(memory);
  ASSERT_TRUE(one.promise(128).ok() && one.grow(128).ok());
  one.extend(128);
  for (const std::int64_t block : {0, 1}) {
    std::memset(one.keys(1, 1, block), 0x7f, 10 * 64 * 4);
    std::memset(one.values(1, 1, block), 0x7f, 64 * 32 * 4);
  }
  const auto expect_cut = [](SequenceCache& cache) {
    const auto* const keys = reinterpret_cast<const float*>(cache.keys(1, 1, 0));
    const auto* const values = reinterpret_cast<const float*>(cache.values(1, 1, 0));
    for (std::size_t position = 0; position < 64; ++position) {
      EXPECT_EQ(keys[3 * 64 + position] == 0, position >= 5) << position;
      EXPECT_EQ(values[position * 32 + 31] == 0, position >= 5) << position;
    }
  };
  SequenceCache copy = one.copy_of_first(5).value();
  expect_cut(copy);
  one.truncate(5);
  expect_cut(one);
  EXPECT_EQ(reinterpret_cast<const float*>(one.values(1, 1, 1))[0], 0.0F);
}

TEST(CacheMemory, gives_no_sequence_what_another_one_left) {
  const auto memory =
      CacheMemory::create(config_of(4, 2, 10).dims, DType::kF32, std::uint64_t{1} << 20).value();
  SequenceCache one(memory);
  ASSERT_TRUE(one.promise(64).ok() && one.grow(64).ok());
  std::memset(one.keys(1, 1, 0), 0x7f, 100);
  std::memset(one.values(1, 1, 0), 0x7f, 100);
  one.clear();
  SequenceCache other(memory);
  ASSERT_TRUE(other.promise(64).ok() && other.grow(64).ok());
  for (std::size_t i = 0; i < 100; ++i) {
    EXPECT_EQ(other.keys(1, 1, 0)[i], std::byte{0});
    EXPECT_EQ(other.values(1, 1, 0)[i], std::byte{0});
  }
}

}  // namespace
}  // namespace airlock
