#include "gpu_server/op_limit.h"

#include <gtest/gtest.h>

#include <vector>

#include "gpu_server/options.h"
#include "proto/limits.h"
#include "proto/op.h"

namespace airlock {
namespace {

LlamaConfig llama_1b() {
  LlamaConfig config;
  config.dims = {.hidden = 2048,
                 .intermediate = 8192,
                 .layers = 16,
                 .heads = 32,
                 .kv_heads = 8,
                 .head_dim = 64,
                 .vocab = 128256};
  config.max_position_embeddings = 131072;
  return config;
}

TEST(OpLimit, takes_each_op_of_a_pass_over_the_whole_context) {
  const LlamaConfig config = llama_1b();
  const std::uint64_t most = default_max_op_flop(config);
  const std::int64_t tokens = config.max_position_embeddings;
  const TensorDesc hidden{DType::kBF16, {tokens, 2048}};
  const TensorDesc queries{DType::kBF16, {32, tokens, 64}};
  const TensorDesc keys{DType::kBF16, {8, tokens, 64}};
  EXPECT_LE(op_flop(matmul_spec(queries, keys, Transpose::kB, DType::kBF16), config.dims), most);
  EXPECT_LE(op_flop(lm_head_spec(hidden), config.dims), most);
  EXPECT_LE(
      op_flop(linear_spec({{WeightKind::kGate, 0}, {WeightKind::kUp, 0}}, hidden, DType::kBF16),
              config.dims),
      most);
}

TEST(OpLimit, takes_each_integer_op_of_a_pass_over_the_whole_context) {
  for (const std::int64_t positions : {2048, 131072}) {
    LlamaConfig config = llama_1b();
    config.max_position_embeddings = positions;
    const std::uint64_t most = default_max_op_flop(config);
    const auto flop = [&](std::vector<WeightId> weights, std::uint8_t planes, std::int64_t rows) {
      return op_flop(int_linear_spec(std::move(weights), planes, rows, config.dims), config.dims);
    };
    EXPECT_LE(flop({{WeightKind::kGate, 0}, {WeightKind::kUp, 0}}, 2, positions), most);
    EXPECT_LE(flop({{WeightKind::kDown, 0}}, 2, positions), most);
    EXPECT_LE(flop({{WeightKind::kQ, 0}, {WeightKind::kK, 0}, {WeightKind::kV, 0}}, 2, positions),
              most);
    EXPECT_LE(flop({}, 2, positions / 8), most);
  }
}

TEST(OpLimit, refuses_a_product_that_no_pass_asks_for) {
  const TensorDesc square{DType::kBF16, {1, 46340, 46340}};
  const OpSpec hog = matmul_spec(square, square, Transpose::kNone, DType::kBF16);
  const LlamaConfig config = llama_1b();
  ASSERT_TRUE(op_results(hog, config.dims).ok());
  EXPECT_GT(op_flop(hog, config.dims), default_max_op_flop(config));
}

TEST(OpLimit, leaves_small_products_alone_whatever_the_model) {
  LlamaConfig config;
  config.dims = {.hidden = 8,
                 .intermediate = 8,
                 .layers = 1,
                 .heads = 1,
                 .kv_heads = 1,
                 .head_dim = 8,
                 .vocab = 8};
  for (const std::int64_t positions : {std::int64_t{-5}, std::int64_t{0}, std::int64_t{16}}) {
    config.max_position_embeddings = positions;
    EXPECT_EQ(default_max_op_flop(config), 100'000'000'000U);
  }
  config.max_position_embeddings = INT64_MAX;
  EXPECT_GE(default_max_op_flop(config), 100'000'000'000U);
}

TEST(OpLimit, is_given_with_a_suffix) {
  const auto parsed = [](const char* text) {
    const std::vector<const char*> line{"gpu_server", "--synthetic", "x", "--max-op-flop", text};
    const auto options = parse_server_options(static_cast<int>(line.size()), line.data());
    return options.ok() ? (*options)->max_op_flop : std::nullopt;
  };
  EXPECT_EQ(parsed("17"), 17U);
  EXPECT_EQ(parsed("2K"), 2000U);
  EXPECT_EQ(parsed("500G"), 500'000'000'000U);
  EXPECT_EQ(parsed("18E"), 18'000'000'000'000'000'000U);
  for (const char* bad : {"0", "0G", "", "G", "1.5T", "2 T", "2X", "2GG", "-1", "19E"}) {
    EXPECT_EQ(parsed(bad), std::nullopt) << bad;
  }
}

}  // namespace
}  // namespace airlock
