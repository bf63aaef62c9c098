#include "tee_runner/llama.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "proto/limits.h"
#include "tee_runner/measured_backend.h"
#include "tests/tee_runner/naive_backend.h"
#include "tests/tee_runner/reference_llama.h"

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
  Result<Tensor> prefill(const std::vector<std::int32_t>& tokens, const LlamaOptions& options) {
    auto driver = LlamaDriver::create(model.config, copy_of(model.norms), options, backend, stats);
    if (!driver.ok()) return driver.status();
    return (*driver)->prefill(tokens);
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

TEST(LlamaDriver, agrees_with_a_double_reference_on_both_attention_routes) {
  for (const LlamaConfig& config : {tiny_config(), tiny_config(4, 1, 6), tiny_config(2, 2, 32)}) {
    TinyRun run(config);
    const auto tokens = tiny_tokens(37);
    const std::vector<double> expected = ReferenceLlama(run.model).logits(tokens);
    for (const Attention attention : {Attention::kOffload, Attention::kTee}) {
      const auto fp32 = run.prefill(tokens, options_of(DType::kF32, attention));
      ASSERT_TRUE(fp32.ok()) << fp32.status().to_string();
      EXPECT_LE(largest_error(*fp32, expected), 2e-5);
      const auto fp16 = run.prefill(tokens, options_of(DType::kF16, attention));
      ASSERT_TRUE(fp16.ok());
      EXPECT_LE(largest_error(*fp16, expected), 4e-3);
      const auto bf16 = run.prefill(tokens, options_of(DType::kBF16, attention));
      ASSERT_TRUE(bf16.ok());
      EXPECT_LE(largest_error(*bf16, expected), 4e-2);
    }
  }
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
    EXPECT_EQ(std::memcmp(one->view().data, three->view().data, one->desc().bytes()), 0);
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
  EXPECT_EQ(calls(TeeKernel::kResidual), 4U);
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
      EXPECT_TRUE(run.prefill(tiny_tokens(7), options_of(DType::kF16, attention)).ok());
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
