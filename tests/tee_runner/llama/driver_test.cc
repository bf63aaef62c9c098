#include "tee_runner/llama/driver.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "proto/limits.h"
#include "tee_runner/measured_backend.h"
#include "tests/tee_runner/llama/reference_llama.h"
#include "tests/tee_runner/naive_backend.h"

namespace airlock {
namespace {

LlamaConfig tiny_config(std::int64_t heads = 4, std::int64_t kv_heads = 2,
                        std::int64_t head_dim = 10) {
  LlamaConfig config;
  config.dims = {32, 48, 2, heads, kv_heads, head_dim, 50};
  config.rms_norm_eps = 1e-5;
  return config;
}

std::vector<std::int32_t> tiny_tokens(std::size_t count) {
  std::vector<std::int32_t> tokens(count);
  for (std::size_t i = 0; i < count; ++i) tokens[i] = static_cast<std::int32_t>((i * 17 + 3) % 50);
  return tokens;
}

Tensor copy_of(const Tensor& tensor) {
  Tensor copy(tensor.desc());
  std::memcpy(copy.mutable_view().data, tensor.view().data, tensor.desc().bytes());
  return copy;
}

struct TinyRun {
  explicit TinyRun(const LlamaConfig& config) : model(config), backend(model) {}
  Result<std::unique_ptr<LlamaDriver>> driver(const LlamaOptions& options) {
    return LlamaDriver::create(model.config, copy_of(model.norms), options, backend, stats);
  }
  Result<Tensor> prefill(const std::vector<std::int32_t>& tokens, const LlamaOptions& options) {
    ASSIGN_OR_RETURN(const auto made, driver(options));
    return made->prefill(tokens);
  }
  RandomModel model;
  NaiveBackend backend;
  TeeStatsTable stats;
};

LlamaOptions options_of(DType wire, Attention attention, Logits logits = Logits::kAll,
                        std::size_t threads = 1) {
  LlamaOptions options;
  options.wire = wire;
  options.attention = attention;
  options.logits = logits;
  options.threads = threads;
  return options;
}

double largest_error(const Tensor& got, const std::vector<double>& expected) {
  double worst = 0, largest = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    worst = std::max(worst, std::abs(static_cast<double>(got.as<float>()[i]) - expected[i]));
    largest = std::max(largest, std::abs(expected[i]));
  }
  return worst / largest;
}

/// Of the wire's type, as the golden models' README has it.
double bound_of(DType wire) {
  if (wire == DType::kI8) return 0.1;
  return wire == DType::kF32 ? 2e-5 : wire == DType::kF16 ? 4e-3 : 4e-2;
}

bool same_bits(const Tensor& a, const Tensor& b) {
  return a.desc() == b.desc() && std::memcmp(a.view().data, b.view().data, a.desc().bytes()) == 0;
}

TEST(LlamaDriver, agrees_with_a_double_reference_on_both_attention_routes) {
  for (const LlamaConfig& config : {tiny_config(), tiny_config(4, 1, 6), tiny_config(2, 2, 32)}) {
    TinyRun run(config);
    const auto tokens = tiny_tokens(37);
    const std::vector<double> expected = ReferenceLlama(run.model).logits(tokens);
    for (const Attention attention : {Attention::kOffload, Attention::kTee}) {
      const auto fp32 = run.prefill(tokens, options_of(DType::kF32, attention));
      ASSERT_TRUE(fp32.ok()) << fp32.status().to_string();
      EXPECT_LE(largest_error(*fp32, expected), bound_of(DType::kF32));
      const auto fp16 = run.prefill(tokens, options_of(DType::kF16, attention));
      ASSERT_TRUE(fp16.ok());
      EXPECT_LE(largest_error(*fp16, expected), bound_of(DType::kF16));
      const auto bf16 = run.prefill(tokens, options_of(DType::kBF16, attention));
      ASSERT_TRUE(bf16.ok());
      EXPECT_LE(largest_error(*bf16, expected), bound_of(DType::kBF16));
    }
  }
}

TEST(LlamaDriver, a_prompt_in_pieces_gives_the_logits_of_one_piece) {
  for (const LlamaConfig& config : {tiny_config(), tiny_config(4, 1, 6)}) {
    TinyRun run(config);
    const auto tokens = tiny_tokens(70);
    const std::vector<double> expected = ReferenceLlama(run.model).logits(tokens);
    for (const Attention attention : {Attention::kOffload, Attention::kTee}) {
      for (const DType wire : {DType::kF32, DType::kF16, DType::kBF16}) {
        LlamaOptions options = options_of(wire, attention);
        const auto whole = run.prefill(tokens, options);
        ASSERT_TRUE(whole.ok()) << whole.status().to_string();
        for (const std::int64_t chunk : {1, 3, 7, 64, 69}) {
          options.chunk = chunk;
          const auto pieces = run.prefill(tokens, options);
          ASSERT_TRUE(pieces.ok()) << pieces.status().to_string();
          EXPECT_LE(largest_error(*pieces, expected), bound_of(wire)) << "chunk " << chunk;
          if (attention == Attention::kTee) {
            EXPECT_TRUE(same_bits(*pieces, *whole)) << "chunk " << chunk;
          }
        }
      }
    }
  }
}

TEST(LlamaDriver, a_prompt_in_pieces_gives_the_last_tokens_logits_once) {
  TinyRun run(tiny_config());
  LlamaOptions options = options_of(DType::kF32, Attention::kTee, Logits::kLast);
  const auto whole = run.prefill(tiny_tokens(9), options);
  options.chunk = 4;
  run.backend.calls.clear();
  const auto pieces = run.prefill(tiny_tokens(9), options);
  ASSERT_TRUE(whole.ok() && pieces.ok());
  EXPECT_TRUE(same_bits(*pieces, *whole));
  EXPECT_EQ(run.backend.calls[Op::kEmbedding], 3);
  EXPECT_EQ(run.backend.calls[Op::kLmHead], 1);
}

TEST(LlamaDriver, attention_in_many_tiles_gives_the_logits_of_one) {
  TinyRun run(tiny_config(6, 3, 10));
  const auto tokens = tiny_tokens(25);
  const std::vector<double> expected = ReferenceLlama(run.model).logits(tokens);
  for (const std::int64_t max_score_bytes : {1, 700, 6000, 12000}) {
    for (const std::int64_t chunk : {0, 10}) {
      LlamaOptions options = options_of(DType::kF32, Attention::kOffload);
      options.max_score_bytes = max_score_bytes;
      options.chunk = chunk;
      const auto got = run.prefill(tokens, options);
      ASSERT_TRUE(got.ok()) << got.status().to_string();
      EXPECT_LE(largest_error(*got, expected), 2e-5) << max_score_bytes << ", chunk " << chunk;
    }
  }
}

TEST(LlamaDriver, rows_in_tiles_give_the_bits_of_all_at_once) {
  for (const LlamaConfig& config : {tiny_config(), tiny_config(4, 1, 6)}) {
    TinyRun run(config);
    const auto tokens = tiny_tokens(150);
    const std::vector<double> expected = ReferenceLlama(run.model).logits(tokens);
    for (const Attention attention : {Attention::kOffload, Attention::kTee}) {
      for (const DType wire : {DType::kF32, DType::kBF16, DType::kI8}) {
        if (wire == DType::kI8 && attention == Attention::kOffload) continue;
        LlamaOptions options = options_of(wire, attention, Logits::kAll, 2);
        const auto whole = run.prefill(tokens, options);
        ASSERT_TRUE(whole.ok()) << whole.status().to_string();
        for (const std::int64_t tile : {std::int64_t{1}, std::int64_t{7}, std::int64_t{32},
                                        std::int64_t{149}, std::int64_t{150}, kAutoTile}) {
          for (const std::int64_t chunk : {0, 40}) {
            options.tile = tile;
            options.chunk = chunk;
            const auto tiles = run.prefill(tokens, options);
            ASSERT_TRUE(tiles.ok()) << tiles.status().to_string();
            EXPECT_LE(largest_error(*tiles, expected), bound_of(wire)) << "tile " << tile;
            if (attention == Attention::kTee) {
              EXPECT_TRUE(same_bits(*tiles, *whole)) << "tile " << tile << ", chunk " << chunk;
            }
          }
        }
      }
    }
  }
}

TEST(LlamaDriver, offloaded_attention_of_row_tiles_may_take_several_products) {
  TinyRun run(tiny_config(6, 3, 10));
  const auto tokens = tiny_tokens(25);
  const std::vector<double> expected = ReferenceLlama(run.model).logits(tokens);
  for (const std::int64_t max_score_bytes : {1, 700, 2000, 6000}) {
    LlamaOptions options = options_of(DType::kF32, Attention::kOffload);
    options.max_score_bytes = max_score_bytes;
    options.tile = 8;
    const auto got = run.prefill(tokens, options);
    ASSERT_TRUE(got.ok()) << got.status().to_string();
    EXPECT_LE(largest_error(*got, expected), 2e-5) << max_score_bytes;
  }
}

/// Computes an op when it is waited for, so that one whose result is taken for granted has none;
/// and counts those under way.
class LateBackend : public Backend {
 public:
  explicit LateBackend(Backend& inner) : inner_(inner) {}
  const BackendInfo& info() const override { return inner_.info(); }
  Result<std::unique_ptr<Pending>> prepare(const OpSpec& spec, Deadline deadline) override {
    ASSIGN_OR_RETURN(auto pending, inner_.prepare(spec, deadline));
    return std::unique_ptr<Pending>(std::make_unique<Late>(*this, std::move(pending)));
  }

  std::size_t most_under_way = 0;
  bool in_order = true;

 private:
  class Late : public ForwardingPending {
   public:
    Late(LateBackend& owner, std::unique_ptr<Pending> inner)
        : ForwardingPending(std::move(inner)), owner_(owner) {}
    Status submit() override {
      number_ = owner_.submitted_++;
      owner_.most_under_way = std::max(owner_.most_under_way, owner_.submitted_ - owner_.finished_);
      return {};
    }
    Status wait() override {
      owner_.in_order = owner_.in_order && number_ == owner_.finished_;
      ++owner_.finished_;
      RETURN_IF_ERROR(ForwardingPending::submit());
      return ForwardingPending::wait();
    }

   private:
    LateBackend& owner_;
    std::size_t number_ = 0;
  };

  Backend& inner_;
  std::size_t submitted_ = 0;
  std::size_t finished_ = 0;
};

TEST(LlamaDriver, has_the_ops_of_several_tiles_under_way_and_finishes_them_in_order) {
  TinyRun run(tiny_config());
  const auto tokens = tiny_tokens(50);
  for (const Attention attention : {Attention::kOffload, Attention::kTee}) {
    LlamaOptions options = options_of(DType::kF32, attention);
    const auto expected = run.prefill(tokens, options);
    ASSERT_TRUE(expected.ok());
    for (const std::int64_t tile : {0, 50, 25, 8, 1}) {
      LateBackend late(run.backend);
      options.tile = tile;
      auto driver =
          LlamaDriver::create(run.model.config, copy_of(run.model.norms), options, late, run.stats);
      ASSERT_TRUE(driver.ok());
      const auto got = (*driver)->prefill(tokens);
      ASSERT_TRUE(got.ok()) << got.status().to_string();
      EXPECT_LE(largest_error(*got, ReferenceLlama(run.model).logits(tokens)), 2e-5);
      EXPECT_TRUE(late.in_order) << "tile " << tile;
      const std::size_t tiles = tile == 0 ? 1 : static_cast<std::size_t>((50 + tile - 1) / tile);
      if (attention == Attention::kTee) {
        EXPECT_TRUE(same_bits(*got, *expected)) << "tile " << tile;
        EXPECT_EQ(late.most_under_way, std::min(tiles, kTilesUnderWay)) << "tile " << tile;
      } else {
        EXPECT_LE(late.most_under_way, kTilesUnderWay) << "tile " << tile;
        EXPECT_GE(late.most_under_way, std::min<std::size_t>(tiles, 2)) << "tile " << tile;
      }
    }
  }
}

TEST(LlamaDriver, a_failed_op_of_a_tile_ends_the_pass_and_the_next_one_is_whole) {
  TinyRun run(tiny_config());
  const auto tokens = tiny_tokens(40);
  for (const Attention attention : {Attention::kOffload, Attention::kTee}) {
    LlamaOptions options = options_of(DType::kF32, attention);
    options.tile = 10;
    auto driver = run.driver(options);
    ASSERT_TRUE(driver.ok());
    const auto whole = (*driver)->prefill(tokens);
    ASSERT_TRUE(whole.ok());
    for (const Op op : {Op::kBatchLinear, Op::kMatmul, Op::kLmHead}) {
      if (op == Op::kMatmul && attention == Attention::kTee) continue;
      run.backend.fail_op = op;
      EXPECT_EQ((*driver)->prefill(tokens).status().code(), StatusCode::kUnavailable);
      run.backend.fail_op = Op::kPing;
      const auto again = (*driver)->prefill(tokens);
      ASSERT_TRUE(again.ok());
      EXPECT_TRUE(same_bits(*again, *whole));
    }
  }
}

TEST(LlamaDriver, goes_on_from_what_a_cache_holds) {
  for (const Attention attention : {Attention::kOffload, Attention::kTee}) {
    TinyRun run(tiny_config());
    const auto tokens = tiny_tokens(12);
    const std::vector<double> expected = ReferenceLlama(run.model).logits(tokens);
    const auto driver = run.driver(options_of(DType::kF32, attention)).value();
    KvCache cache = driver->make_cache(12).value();
    const std::span<const std::int32_t> all(tokens);
    const auto none = driver->forward(all.first(5), cache, Logits::kNone);
    ASSERT_TRUE(none.ok()) << none.status().to_string();
    EXPECT_EQ(none->desc().shape, (Shape{0, 50}));
    EXPECT_EQ(cache.length(), 5);
    for (std::size_t i = 5; i < 12; ++i) {
      const auto logits = driver->forward(all.subspan(i, 1), cache, Logits::kLast);
      ASSERT_TRUE(logits.ok()) << logits.status().to_string();
      EXPECT_EQ(cache.length(), static_cast<std::int64_t>(i) + 1);
      EXPECT_EQ(logits->desc().shape, (Shape{1, 50}));
      const auto row = expected.begin() + static_cast<std::ptrdiff_t>(i) * 50;
      EXPECT_LE(largest_error(*logits, {row, row + 50}), 1e-4) << "position " << i;
    }
  }
}

TEST(LlamaDriver, goes_on_from_a_cache_that_was_cut_back) {
  for (const Attention attention : {Attention::kOffload, Attention::kTee}) {
    TinyRun run(tiny_config());
    auto edited = tiny_tokens(11);
    std::reverse(edited.begin() + 6, edited.end());
    const auto driver = run.driver(options_of(DType::kBF16, attention, Logits::kLast)).value();
    const auto expected = driver->prefill(edited);
    KvCache cache = driver->make_cache(20).value();
    ASSERT_TRUE(driver->forward(tiny_tokens(20), cache, Logits::kLast).ok());
    cache.truncate(6);
    const auto got = driver->forward(std::span(edited).subspan(6), cache, Logits::kLast);
    ASSERT_TRUE(expected.ok() && got.ok()) << got.status().to_string();
    EXPECT_TRUE(same_bits(*got, *expected));
    EXPECT_EQ(cache.length(), 11);
  }
}

TEST(LlamaDriver, refuses_what_does_not_fit_a_cache_before_it_asks_for_anything) {
  TinyRun run(tiny_config());
  const auto driver = run.driver(options_of(DType::kF32, Attention::kOffload)).value();
  const auto refused = [&](KvCache& cache, std::size_t tokens) {
    const std::int64_t length = cache.length();
    run.backend.calls.clear();
    const auto result = driver->forward(tiny_tokens(tokens), cache, Logits::kLast);
    EXPECT_FALSE(result.ok());
    EXPECT_TRUE(run.backend.calls.empty());
    EXPECT_EQ(cache.length(), length);
    return result.status().code();
  };
  KvCache cache = driver->make_cache(5).value();
  EXPECT_EQ(refused(cache, 6), StatusCode::kResourceExhausted);
  ASSERT_TRUE(driver->forward(tiny_tokens(4), cache, Logits::kNone).ok());
  EXPECT_EQ(refused(cache, 2), StatusCode::kResourceExhausted);
  EXPECT_EQ(refused(cache, 0), StatusCode::kInvalidInput);
  ASSERT_TRUE(driver->forward(tiny_tokens(1), cache, Logits::kNone).ok());
  ModelDims dims = run.model.config.dims;
  KvCache other_type = KvCache::create(dims, DType::kBF16, 5).value();
  EXPECT_EQ(refused(other_type, 1), StatusCode::kInvalidInput);
  ++dims.layers;
  KvCache other_model = KvCache::create(dims, DType::kF32, 5).value();
  EXPECT_EQ(refused(other_model, 1), StatusCode::kInvalidInput);
  EXPECT_EQ(driver->make_cache(0).status().code(), StatusCode::kInvalidInput);
}

TEST(LlamaDriver, a_pass_that_fails_leaves_the_cache_as_it_was) {
  TinyRun run(tiny_config());
  const auto tokens = tiny_tokens(9);
  const auto driver =
      run.driver(options_of(DType::kF32, Attention::kOffload, Logits::kLast)).value();
  const auto expected = driver->prefill(tokens);
  KvCache cache = driver->make_cache(9).value();
  const std::span<const std::int32_t> all(tokens);
  ASSERT_TRUE(driver->forward(all.first(4), cache, Logits::kNone).ok());
  run.backend.fail_op = Op::kLmHead;
  ASSERT_FALSE(driver->forward(all.subspan(4), cache, Logits::kLast).ok());
  EXPECT_EQ(cache.length(), 4);
  run.backend.fail_op = Op::kPing;
  const auto got = driver->forward(all.subspan(4), cache, Logits::kLast);
  ASSERT_TRUE(expected.ok() && got.ok());
  EXPECT_TRUE(same_bits(*got, *expected));
}

TEST(LlamaDriver, last_logits_are_the_last_row_of_all_logits) {
  TinyRun run(tiny_config());
  const auto all = run.prefill(tiny_tokens(9), options_of(DType::kBF16, Attention::kOffload));
  const auto last =
      run.prefill(tiny_tokens(9), options_of(DType::kBF16, Attention::kOffload, Logits::kLast));
  ASSERT_TRUE(all.ok() && last.ok());
  ASSERT_EQ(last->desc().shape, (Shape{1, 50}));
  EXPECT_EQ(std::memcmp(last->view().data, &all->as<float>()[8 * 50], 50 * sizeof(float)), 0);
}

TEST(LlamaDriver, gives_the_same_bits_again_and_with_any_number_of_threads) {
  TinyRun run(tiny_config());
  for (const Attention attention : {Attention::kOffload, Attention::kTee}) {
    const auto one = run.prefill(tiny_tokens(40), options_of(DType::kBF16, attention));
    const auto three =
        run.prefill(tiny_tokens(40), options_of(DType::kBF16, attention, Logits::kAll, 3));
    ASSERT_TRUE(one.ok() && three.ok());
    EXPECT_TRUE(same_bits(*one, *three));
  }
}

TEST(LlamaDriver, asks_for_one_op_a_step_and_books_each_kernel) {
  TinyRun run(tiny_config());
  ASSERT_TRUE(run.prefill(tiny_tokens(5), options_of(DType::kF32, Attention::kOffload)).ok());
  EXPECT_EQ(run.backend.calls[Op::kEmbedding], 1);
  EXPECT_EQ(run.backend.calls[Op::kBatchLinear], 2 * 4);
  EXPECT_EQ(run.backend.calls[Op::kMatmul], 2 * 2);
  EXPECT_EQ(run.backend.calls[Op::kLmHead], 1);
  const auto calls = [&](TeeKernel kernel) { return run.stats[kernel].calls.load(); };
  EXPECT_EQ(calls(TeeKernel::kRmsNorm), 5U);
  EXPECT_EQ(calls(TeeKernel::kRope), 2U);
  EXPECT_EQ(calls(TeeKernel::kSoftmax), 2U);
  EXPECT_EQ(calls(TeeKernel::kSilu), 2U);
  // The others are one pass with the norm behind them, and booked as that.
  EXPECT_EQ(calls(TeeKernel::kResidual), 1U);
}

TEST(LlamaDriver, runs_again_with_another_number_of_tokens) {
  TinyRun run(tiny_config());
  auto driver =
      LlamaDriver::create(run.model.config, copy_of(run.model.norms),
                          options_of(DType::kF32, Attention::kOffload), run.backend, run.stats);
  ASSERT_TRUE(driver.ok());
  for (const std::size_t count : {3U, 20U, 1U}) {
    const auto got = (*driver)->prefill(tiny_tokens(count));
    ASSERT_TRUE(got.ok());
    EXPECT_LE(largest_error(*got, ReferenceLlama(run.model).logits(tiny_tokens(count))), 2e-5);
  }
}

TEST(LlamaDriver, carries_on_with_whatever_numbers_the_server_sends) {
  for (const double poison : {std::nan(""), HUGE_VAL, -HUGE_VAL, 3e38, 1e-45}) {
    for (const Attention attention : {Attention::kOffload, Attention::kTee}) {
      TinyRun run(tiny_config());
      run.backend.tamper = [poison](Op, std::vector<double>& values) {
        std::fill(values.begin(), values.end(), poison);
      };
      LlamaOptions options = options_of(DType::kF16, attention);
      EXPECT_TRUE(run.prefill(tiny_tokens(7), options).ok());
      options.chunk = 3;
      EXPECT_TRUE(run.prefill(tiny_tokens(7), options).ok());
    }
  }
}

TEST(LlamaDriver, passes_a_failed_op_up_whichever_it_is) {
  for (const Op op : {Op::kEmbedding, Op::kBatchLinear, Op::kMatmul, Op::kLmHead}) {
    TinyRun run(tiny_config());
    run.backend.fail_op = op;
    const auto result = run.prefill(tiny_tokens(7), options_of(DType::kF32, Attention::kOffload));
    ASSERT_FALSE(result.ok());
    EXPECT_EQ(result.status().code(), StatusCode::kUnavailable);
  }
}

// A row is rounded by itself alone: pieces and threads change no bit.
TEST(LlamaDriver, crosses_as_int8_rows) {
  for (const LlamaConfig& config : {tiny_config(), tiny_config(4, 1, 6), tiny_config(2, 2, 32)}) {
    TinyRun run(config);
    const auto tokens = tiny_tokens(37);
    LlamaOptions options = options_of(DType::kI8, Attention::kTee);
    const auto whole = run.prefill(tokens, options);
    ASSERT_TRUE(whole.ok()) << whole.status().to_string();
    const std::vector<double> expected = ReferenceLlama(run.model).logits(tokens);
    EXPECT_LE(largest_error(*whole, expected), 0.1);
    EXPECT_GT(largest_error(*whole, expected), 1e-3) << "nothing was rounded to int8";
    options.chunk = 7;
    EXPECT_TRUE(same_bits(run.prefill(tokens, options).value(), *whole));
    options = options_of(DType::kI8, Attention::kTee, Logits::kAll, 3);
    EXPECT_TRUE(same_bits(run.prefill(tokens, options).value(), *whole));
  }
}

TEST(LlamaDriver, does_not_offload_attention_as_int8) {
  TinyRun run(tiny_config());
  EXPECT_EQ(run.driver(options_of(DType::kI8, Attention::kOffload)).status().code(),
            StatusCode::kInvalidInput);
  EXPECT_EQ(run.driver(options_of(DType::kU8, Attention::kTee)).status().code(),
            StatusCode::kInvalidInput);
}

TEST(LlamaDriver, refuses_bad_prompts_with_value_and_range) {
  TinyRun run(tiny_config());
  const LlamaOptions options = options_of(DType::kF32, Attention::kOffload);
  const auto refused = [&](const std::vector<std::int32_t>& tokens, const char* text) {
    const auto result = run.prefill(tokens, options);
    EXPECT_FALSE(result.ok());
    EXPECT_EQ(result.status().code(), StatusCode::kInvalidInput);
    EXPECT_NE(result.status().message().find(text), std::string::npos) << result.status().message();
  };
  refused({}, "empty");
  refused({1, 50}, "50 at position 1");
  refused({-1}, "from 0 to 49");
  refused({std::numeric_limits<std::int32_t>::max()}, "2147483647");
  refused(std::vector<std::int32_t>(static_cast<std::size_t>(limits::kMaxTokens) + 1, 1),
          "too many");
}

TEST(LlamaDriver, only_warns_beyond_max_position_embeddings) {
  LlamaConfig config = tiny_config();
  config.max_position_embeddings = 4;
  TinyRun run(config);
  EXPECT_TRUE(run.prefill(tiny_tokens(6), options_of(DType::kF32, Attention::kTee)).ok());
}

TEST(LlamaDriver, refuses_other_dimensions_norms_and_an_odd_head) {
  TinyRun run(tiny_config());
  const LlamaOptions options = options_of(DType::kF32, Attention::kOffload);
  LlamaConfig other = run.model.config;
  other.dims.vocab = 51;
  EXPECT_EQ(LlamaDriver::create(other, copy_of(run.model.norms), options, run.backend, run.stats)
                .status()
                .code(),
            StatusCode::kMismatch);
  EXPECT_EQ(LlamaDriver::create(run.model.config, Tensor({DType::kF32, {4, 32}}), options,
                                run.backend, run.stats)
                .status()
                .code(),
            StatusCode::kInvalidInput);
  TinyRun odd(tiny_config(4, 2, 7));
  EXPECT_EQ(odd.prefill({1}, options).status().code(), StatusCode::kInvalidInput);
}

TEST(MeasuredBackend, books_every_op_and_the_parts_add_up) {
  TinyRun run(tiny_config());
  OpStatsTable stats;
  MeasuredBackend measured(run.backend, stats);
  auto driver =
      LlamaDriver::create(run.model.config, copy_of(run.model.norms),
                          options_of(DType::kF32, Attention::kOffload), measured, run.stats);
  ASSERT_TRUE(driver.ok());
  ASSERT_TRUE((*driver)->prefill(tiny_tokens(6)).ok());
  for (const auto& [op, calls] : run.backend.calls) {
    const OpStats& of = stats[op];
    EXPECT_EQ(of.calls, static_cast<std::uint64_t>(calls));
    EXPECT_EQ(of.times.total_ns,
              of.times.tee_ns + of.times.wire_ns + of.times.queue_ns + of.times.server_ns);
    EXPECT_EQ(of.times.server_ns, static_cast<std::uint64_t>(2 * calls));
  }
}

TEST(MeasuredBackend, books_an_op_once_and_only_if_it_went_well) {
  TinyRun run(tiny_config());
  OpStatsTable stats;
  MeasuredBackend measured(run.backend, stats);
  const auto start = [&] {
    auto pending =
        measured.prepare(embedding_spec(2, DType::kF32), Deadline::after(std::chrono::seconds(60)));
    EXPECT_TRUE(pending.ok() && (*pending)->submit().ok());
    for (std::int32_t& id : (*pending)->input(0).as<std::int32_t>()) id = 0;
    return std::move(pending).value();
  };
  start().reset();
  EXPECT_EQ(stats[Op::kEmbedding].calls, 0U);
  const auto pending = start();
  ASSERT_TRUE(pending->wait().ok() && pending->wait().ok());
  EXPECT_EQ(stats[Op::kEmbedding].calls, 1U);
  EXPECT_EQ(stats[Op::kEmbedding].times.total_ns, pending->times().total_ns);
}

}  // namespace
}  // namespace airlock
