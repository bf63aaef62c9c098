#pragma once
// An engine over a driver whose products are exact, and what its answers said.

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstring>
#include <limits>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <random>
#include <utility>
#include <vector>

#include "tee_runner/generate/batch_engine.h"
#include "tests/tee_runner/naive_backend.h"

namespace airlock::testing {

inline constexpr std::int64_t kVocab = 50;
inline constexpr std::chrono::seconds kPatience{60};

inline LlamaConfig tiny_config() {
  LlamaConfig config;
  config.dims = {32, 48, 2, 4, 2, 10, kVocab};
  config.rms_norm_eps = 1e-5;
  config.max_position_embeddings = 400;
  return config;
}

inline Tensor copy_of(const Tensor& tensor) {
  Tensor copy(tensor.desc());
  std::memcpy(copy.mutable_view().data, tensor.view().data, tensor.desc().bytes());
  return copy;
}

/// What all models of a test have in common; the test changes it while an engine runs.
struct World {
  RandomModel model{tiny_config()};
  std::atomic<bool> is_there{true};
  std::atomic<bool> fails{false};  // each product, of itself
  std::atomic<bool> gives_nan{false};
  std::atomic<bool> lies{false};  // lm_head fails its check, and the server hangs up
  std::atomic<bool> throws{false};
  std::atomic<int> passes{0};
  std::atomic<int> made{0};
};

class TinyModel final : public EngineModel {
 public:
  explicit TinyModel(World& world) : world_(world), backend_(world.model) {
    backend_.tamper = [&world](Op op, std::vector<double>& values) {
      if (op == Op::kEmbedding) ++world.passes;
      if (op == Op::kEmbedding && world.lies) world.is_there = false;
      if (op == Op::kLmHead && world.throws) throw std::bad_alloc();
      if (op == Op::kLmHead && world.gives_nan)
        values[3] = std::numeric_limits<double>::quiet_NaN();
    };
    LlamaOptions options;
    options.attention = Attention::kTee;
    driver_ = LlamaDriver::create(world.model.config, copy_of(world.model.norms), options, backend_,
                                  stats_)
                  .value();
    ++world.made;
  }
  LlamaDriver& driver() override { return *driver_; }
  Status check() override {
    backend_.fail_op = world_.fails || world_.lies ? Op::kLmHead : Op::kPing;
    if (world_.lies) backend_.failure = {StatusCode::kMismatch, "an answer failed its check"};
    return world_.is_there ? Status() : Status(StatusCode::kUnavailable, "it was killed");
  }

 private:
  World& world_;
  NaiveBackend backend_;
  TeeStatsTable stats_;
  std::unique_ptr<LlamaDriver> driver_;
};

/// An answer as it comes.
class Answer final : public TokenSink {
 public:
  explicit Answer(std::size_t enough = 1000000) : enough_(enough) {}
  bool on_token(const GeneratedToken& token) override {
    const std::lock_guard lock(mutex_);
    ids_.push_back(token.id);
    tops_.push_back(token.top);
    changed_.notify_all();
    return ids_.size() < enough_;
  }
  void on_finish(const Finish& finish) override {
    const std::lock_guard lock(mutex_);
    EXPECT_FALSE(finish_.has_value());
    finish_ = finish;
    changed_.notify_all();
  }
  Finish end() {
    std::unique_lock lock(mutex_);
    EXPECT_TRUE(changed_.wait_for(lock, kPatience, [this] { return finish_.has_value(); }));
    return finish_.value_or(Finish{});
  }
  void await_tokens(std::size_t count) {
    std::unique_lock lock(mutex_);
    EXPECT_TRUE(changed_.wait_for(lock, kPatience, [&] { return ids_.size() >= count; }));
  }
  std::vector<std::int32_t> ids() {
    const std::lock_guard lock(mutex_);
    return ids_;
  }
  std::size_t top_count(std::size_t index) { return tops_[index].size(); }

 private:
  const std::size_t enough_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::int32_t> ids_;
  std::vector<std::vector<TokenLogProbability>> tops_;
  std::optional<Finish> finish_;
};

inline std::vector<std::int32_t> prompt_of(std::size_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<std::int32_t> tokens(count);
  for (std::int32_t& token : tokens) token = static_cast<std::int32_t>(random() % kVocab);
  return tokens;
}

class BatchEngineTest : public ::testing::Test {
 protected:
  BatchEngineOptions options() const {
    BatchEngineOptions options;
    options.dims = world_.model.config.dims;
    options.context_length = 400;
    options.cache_bytes = std::uint64_t{64} << 20;
    options.rows_beside = 5;
    options.reconnect_pause = std::chrono::milliseconds(1);
    return options;
  }
  std::unique_ptr<BatchEngine> start(BatchEngineOptions options) {
    return BatchEngine::create(std::move(options), std::make_unique<TinyModel>(world_), stats_)
        .value();
  }
  static GenerateRequest request_of(std::vector<std::int32_t> prompt, std::int64_t max_tokens) {
    GenerateRequest request;
    request.prompt = std::move(prompt);
    request.max_tokens = max_tokens;
    return request;
  }
  /// One that is answered alone, by a prefill for each token.
  std::vector<std::int32_t> greedy(std::vector<std::int32_t> tokens, std::size_t count) {
    TinyModel model(world_);
    std::vector<std::int32_t> answer;
    while (answer.size() < count) {
      const Tensor logits = model.driver().prefill(tokens).value();
      const auto row = logits.as<float>();
      answer.push_back(static_cast<std::int32_t>(std::ranges::max_element(row) - row.begin()));
      tokens.push_back(answer.back());
    }
    return answer;
  }

  World world_;
  TextStats stats_;
};

}  // namespace airlock::testing
