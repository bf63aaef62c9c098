#include "runtime/model/forward_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "proto/limits.h"

namespace airlock {
namespace {

constexpr ModelDims kDims{.hidden = 64,
                          .intermediate = 96,
                          .layers = 3,
                          .heads = 8,
                          .kv_heads = 4,
                          .head_dim = 16,
                          .vocab = 10};

std::vector<PlannedOp> ops_of(const ModelDims& dims, const ForwardShape& shape) {
  auto plan = plan_forward(dims, shape);
  EXPECT_TRUE(plan.ok()) << plan.status().to_string();
  return plan.ok() ? std::move(*plan) : std::vector<PlannedOp>();
}

/// The QK^T of the first layer.
std::vector<PlannedOp> scores_of(const ModelDims& dims, const ForwardShape& shape) {
  std::vector<PlannedOp> ops = ops_of(dims, shape);
  std::erase_if(ops, [](const PlannedOp& op) { return op.step != Step::kScores || op.layer != 0; });
  return ops;
}

TEST(ForwardPlan, lists_embedding_each_layer_and_logits_in_order) {
  const std::vector<Step> layer = {Step::kQkv,          Step::kScores, Step::kValues,
                                   Step::kAttentionOut, Step::kGateUp, Step::kDown};
  std::vector<Step> expected = {Step::kEmbed};
  for (int i = 0; i < 3; ++i) expected.insert(expected.end(), layer.begin(), layer.end());
  expected.push_back(Step::kLogits);
  const auto ops = ops_of(kDims, {5, DType::kBF16});
  std::vector<Step> steps;
  for (const PlannedOp& op : ops) steps.push_back(op.step);
  EXPECT_EQ(steps, expected);
  for (std::size_t i = 0; i < ops.size(); ++i) {
    const bool outer = i == 0 || i + 1 == ops.size();
    ASSERT_EQ(ops[i].layer.has_value(), !outer) << i;
    if (!outer) {
      EXPECT_EQ(ops[i].layer, (i - 1) / 6) << i;
    }
    for (const WeightId& weight : ops[i].spec.weights) EXPECT_EQ(weight.layer, ops[i].layer) << i;
  }
}

TEST(ForwardPlan, asks_the_specs_of_a_pass_that_begins_at_a_position) {
  const DType wire = DType::kF16;
  const auto ops =
      ops_of({64, 96, 1, 8, 4, 16, 10}, {5, wire, Attention::kOffload, Logits::kAll, 12});
  const TensorDesc hidden{wire, {5, 64}};
  const std::vector<OpSpec> expected = {
      embedding_spec(5, wire),
      linear_spec({{WeightKind::kQ, 0}, {WeightKind::kK, 0}, {WeightKind::kV, 0}}, hidden, wire),
      matmul_spec({wire, {8, 5, 16}}, {wire, {4, 17, 16}}, Transpose::kB, wire),
      matmul_spec({wire, {8, 5, 17}}, {wire, {4, 17, 16}}, Transpose::kNone, wire),
      linear_spec({{WeightKind::kO, 0}}, {wire, {5, 128}}, wire),
      linear_spec({{WeightKind::kGate, 0}, {WeightKind::kUp, 0}}, hidden, wire),
      linear_spec({{WeightKind::kDown, 0}}, {wire, {5, 96}}, wire),
      lm_head_spec(hidden)};
  ASSERT_EQ(ops.size(), expected.size());
  for (std::size_t i = 0; i < ops.size(); ++i) EXPECT_TRUE(ops[i].spec == expected[i]) << i;
}

TEST(ForwardPlan, of_int8_rows_has_their_scales_and_no_offloaded_attention) {
  const DType wire = DType::kI8;
  const ModelDims dims{64, 96, 1, 8, 4, 16, 10};
  const auto ops = ops_of(dims, {5, wire, Attention::kTee, Logits::kAll, 12});
  const TensorDesc hidden{wire, {5, 68}};
  const std::vector<OpSpec> expected = {
      embedding_spec(5, wire),
      linear_spec({{WeightKind::kQ, 0}, {WeightKind::kK, 0}, {WeightKind::kV, 0}}, hidden, wire),
      linear_spec({{WeightKind::kO, 0}}, {wire, {5, 136}}, wire),
      linear_spec({{WeightKind::kGate, 0}, {WeightKind::kUp, 0}}, hidden, wire),
      linear_spec({{WeightKind::kDown, 0}}, {wire, {5, 102}}, wire),
      lm_head_spec(hidden)};
  ASSERT_EQ(ops.size(), expected.size());
  for (std::size_t i = 0; i < ops.size(); ++i) EXPECT_TRUE(ops[i].spec == expected[i]) << i;
  EXPECT_EQ(plan_forward(dims, {5, wire, Attention::kOffload, Logits::kAll}).status().code(),
            StatusCode::kInvalidInput);
}

TEST(ForwardPlan, has_no_matmul_with_attention_in_the_tee_and_no_lm_head_without_logits) {
  for (const PlannedOp& op : ops_of(kDims, {5, DType::kF32, Attention::kTee, Logits::kNone})) {
    EXPECT_NE(op.spec.op, Op::kMatmul);
    EXPECT_NE(op.spec.op, Op::kLmHead);
  }
}

TEST(ForwardPlan, asks_for_the_logits_of_the_last_row_or_of_all) {
  const auto last = ops_of(kDims, {5, DType::kF32, Attention::kTee, Logits::kLast});
  EXPECT_EQ(last.back().tile.first_row, 4);
  EXPECT_EQ(last.back().tile.row_count, 1);
  const auto all = ops_of(kDims, {5, DType::kF32, Attention::kTee, Logits::kAll});
  EXPECT_EQ(all.back().tile.first_row, 0);
  EXPECT_EQ(all.back().tile.row_count, 5);
}

TEST(ForwardPlan, splits_rows_whose_results_are_over_256_mib) {
  ModelDims dims = kDims;
  dims.layers = 1;
  dims.intermediate = 1 << 18;
  dims.vocab = 4 << 20;
  const auto ops = ops_of(dims, {300, DType::kF32, Attention::kTee, Logits::kAll});
  std::int64_t down_rows = 0;
  std::int64_t logits_rows = 0;
  for (const PlannedOp& op : ops) {
    EXPECT_LE(op_results(op.spec, dims).value()[0].bytes(), std::size_t{256} << 20);
    if (op.step == Step::kDown) {
      EXPECT_EQ(op.tile.first_row, down_rows);
      down_rows += op.tile.row_count;
    }
    if (op.step == Step::kLogits) {
      EXPECT_EQ(op.tile.first_row, logits_rows);
      logits_rows += op.tile.row_count;
    }
  }
  EXPECT_EQ(down_rows, 300);
  EXPECT_EQ(logits_rows, 300);
  // Embedding, qkv and o_proj, two pairs of the feed-forward, 16 rows of logits at a time.
  EXPECT_EQ(ops.size(), 1U + 2 + 4 + 19);
}

TEST(ForwardPlan, attention_covers_every_group_and_row_once_within_the_limit) {
  for (const std::int64_t position : {0, 7, 100}) {
    for (const std::int64_t limit : {1LL, 1000LL, 5000LL, 20000LL, 1LL << 28}) {
      const ForwardShape shape{30,       DType::kBF16, Attention::kOffload, Logits::kLast,
                               position, limit};
      std::vector<int> seen(4 * 30);
      for (const PlannedOp& op : scores_of(kDims, shape)) {
        const Tile& tile = op.tile;
        const std::int64_t keys = op.spec.inputs[1].shape[1];
        EXPECT_EQ(keys, position + tile.first_row + tile.row_count);
        EXPECT_EQ(op.spec.inputs[1].shape[0], tile.group_count);
        EXPECT_EQ(op.spec.inputs[0].shape, (Shape{2 * tile.group_count, tile.row_count, 16}));
        for (std::int64_t g = 0; g < tile.group_count; ++g) {
          for (std::int64_t r = 0; r < tile.row_count; ++r) {
            ++seen[static_cast<std::size_t>((tile.first_group + g) * 30 + tile.first_row + r)];
          }
        }
        EXPECT_TRUE(tile.row_count == 1 ||
                    tile.group_count * 2 * tile.row_count * keys * 2 <= limit);
      }
      EXPECT_THAT(seen, testing::Each(1));
    }
  }
  EXPECT_EQ(scores_of(kDims, {30, DType::kBF16}).size(), 1U);
}

ForwardShape tiled(std::int64_t tokens, std::int64_t tile, Attention attention = Attention::kTee) {
  ForwardShape shape{tokens, DType::kBF16, attention};
  shape.tile = tile;
  return shape;
}

TEST(ForwardPlan, tiles_cover_each_row_once) {
  const auto rows_of = [](std::int64_t tokens, std::int64_t tile) {
    std::vector<std::int64_t> rows;
    std::int64_t next = 0;
    for (const Tile& part : row_tiles(kDims, tiled(tokens, tile))) {
      EXPECT_EQ(part.first_row, next);
      next += part.row_count;
      rows.push_back(part.row_count);
    }
    EXPECT_EQ(next, tokens);
    return rows;
  };
  using Rows = std::vector<std::int64_t>;
  EXPECT_EQ(rows_of(10, 0), (Rows{10}));
  EXPECT_EQ(rows_of(10, 4), (Rows{4, 4, 2}));
  EXPECT_EQ(rows_of(10, 11), (Rows{10}));
  EXPECT_EQ(rows_of(127, kAutoTile), (Rows{127}));
  EXPECT_EQ(rows_of(128, kAutoTile), (Rows{64, 64}));
  EXPECT_EQ(rows_of(1000, kAutoTile), (Rows{256, 256, 256, 232}));
  EXPECT_EQ(rows_of(1024, kAutoTile), (Rows{256, 256, 256, 256}));
  EXPECT_EQ(rows_of(2049, kAutoTile), (Rows{416, 416, 416, 416, 385}));
  EXPECT_EQ(rows_of(2560, kAutoTile), (Rows{512, 512, 512, 512, 512}));
}

TEST(ForwardPlan, alternates_the_tiles_of_a_group_step_by_step) {
  std::vector<std::pair<Step, std::int64_t>> order;
  for (const PlannedOp& op : ops_of(kDims, tiled(50, 10))) {
    if (op.layer == 0) order.emplace_back(op.step, op.tile.first_row);
  }
  std::vector<std::pair<Step, std::int64_t>> expected;
  for (const std::vector<std::int64_t>& group : {std::vector<std::int64_t>{0, 10, 20}, {30, 40}}) {
    for (const Step step : {Step::kQkv, Step::kAttentionOut, Step::kGateUp, Step::kDown}) {
      for (const std::int64_t row : group) expected.emplace_back(step, row);
    }
  }
  EXPECT_EQ(order, expected);
}

TEST(ForwardPlan, offloaded_attention_of_tiles_sees_no_keys_behind_their_rows) {
  std::vector<std::pair<Step, std::int64_t>> order;
  for (const PlannedOp& op : ops_of(kDims, tiled(30, 10, Attention::kOffload))) {
    if (op.layer != 0 || (op.step != Step::kScores && op.step != Step::kValues)) continue;
    order.emplace_back(op.step, op.tile.first_row);
    EXPECT_EQ(op.spec.inputs[1].shape[1], op.tile.first_row + 10);
  }
  // Scores are under way while those before them are weighed.
  const std::vector<std::pair<Step, std::int64_t>> expected = {
      {Step::kScores, 0},  {Step::kScores, 10}, {Step::kValues, 0},
      {Step::kScores, 20}, {Step::kValues, 10}, {Step::kValues, 20}};
  EXPECT_EQ(order, expected);
}

TEST(ForwardPlan, refuses_a_tile_of_no_rows) {
  EXPECT_EQ(plan_forward(kDims, tiled(10, -2)).status().code(), StatusCode::kInvalidInput);
}

TEST(ForwardPlan, refuses_positions_that_there_are_not) {
  const auto refused = [](std::int64_t tokens, std::int64_t position) {
    const auto plan =
        plan_forward(kDims, {tokens, DType::kF32, Attention::kTee, Logits::kLast, position});
    return !plan.ok() && plan.status().code() == StatusCode::kInvalidInput;
  };
  EXPECT_TRUE(refused(0, 0));
  EXPECT_TRUE(refused(-1, 0));
  EXPECT_TRUE(refused(1, -1));
  EXPECT_TRUE(refused(1, limits::kMaxTokens));
  EXPECT_TRUE(refused(limits::kMaxTokens + 1, 0));
  EXPECT_TRUE(refused(1, std::numeric_limits<std::int64_t>::max()));
  EXPECT_FALSE(refused(1, limits::kMaxTokens - 1));
  EXPECT_FALSE(refused(limits::kMaxTokens, 0));
}

TEST(ForwardPlan, refuses_ops_over_the_limits_by_name) {
  const ModelDims wide{.hidden = limits::kMaxHidden,
                       .intermediate = 1024,
                       .layers = 1,
                       .heads = 1,
                       .kv_heads = 1,
                       .head_dim = 64,
                       .vocab = 100};
  ASSERT_TRUE(wide.check().ok());
  const auto plan = plan_forward(wide, {limits::kMaxTokens, DType::kF32, Attention::kTee});
  ASSERT_FALSE(plan.ok());
  EXPECT_EQ(plan.status().code(), StatusCode::kInvalidInput);
  EXPECT_THAT(plan.status().message(), testing::HasSubstr("embedding"));
}

TEST(ForwardPlan, refuses_more_ops_than_can_be_listed) {
  for (const std::int64_t layers : {std::int64_t{8}, limits::kMaxLayers}) {
    const ModelDims deep{.hidden = 64,
                         .intermediate = 64,
                         .layers = layers,
                         .heads = 1024,
                         .kv_heads = 1024,
                         .head_dim = 64,
                         .vocab = 100};
    ASSERT_TRUE(deep.check().ok());
    const auto plan = plan_forward(deep, {limits::kMaxTokens, DType::kF32});
    ASSERT_FALSE(plan.ok());
    EXPECT_EQ(plan.status().code(), StatusCode::kResourceExhausted);
    EXPECT_THAT(plan.status().message(), testing::HasSubstr("1048576"));
  }
}

TEST(ForwardPlan, of_a_prompt_in_pieces_is_that_of_its_passes) {
  const ForwardShape prompt{10, DType::kBF16};
  const auto plan = plan_forward(kDims, prompt, 4).value();
  std::size_t at = 0;
  for (const ForwardShape& pass : split_prompt(prompt, 4)) {
    for (const PlannedOp& op : ops_of(kDims, pass)) {
      ASSERT_LT(at, plan.size());
      EXPECT_TRUE(plan[at++].spec == op.spec);
    }
  }
  EXPECT_EQ(at, plan.size());
}

TEST(ForwardPlan, refuses_pieces_with_too_many_ops_in_all) {
  const ForwardShape prompt{limits::kMaxTokens, DType::kF32, Attention::kTee};
  ASSERT_TRUE(plan_forward(kDims, prompt, 4).ok());
  const auto plan = plan_forward(kDims, prompt, 1);
  ASSERT_FALSE(plan.ok());
  EXPECT_EQ(plan.status().code(), StatusCode::kResourceExhausted);
}

TEST(SplitPrompt, gives_passes_that_follow_each_other_and_the_last_ones_logits) {
  const ForwardShape prompt{10, DType::kBF16, Attention::kTee, Logits::kLast};
  const auto passes = split_prompt(prompt, 4);
  ASSERT_EQ(passes.size(), 3U);
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(passes[i].position, 4 * static_cast<std::int64_t>(i));
    EXPECT_EQ(passes[i].tokens, i == 2 ? 2 : 4);
    EXPECT_EQ(passes[i].wire, DType::kBF16);
    EXPECT_EQ(passes[i].attention, Attention::kTee);
    EXPECT_EQ(passes[i].logits, i == 2 ? Logits::kLast : Logits::kNone);
  }
}

TEST(SplitPrompt, keeps_all_logits_and_a_prompt_that_fits_whole) {
  for (const ForwardShape& pass :
       split_prompt({10, DType::kF32, Attention::kTee, Logits::kAll}, 3)) {
    EXPECT_EQ(pass.logits, Logits::kAll);
  }
  for (const std::int64_t chunk : {0, 10, 11}) {
    const auto passes = split_prompt({10, DType::kF32}, chunk);
    ASSERT_EQ(passes.size(), 1U);
    EXPECT_EQ(passes[0].tokens, 10);
    EXPECT_EQ(passes[0].logits, Logits::kLast);
  }
}

}  // namespace
}  // namespace airlock
