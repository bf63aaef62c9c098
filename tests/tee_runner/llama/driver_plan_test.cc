// What the driver asks a backend for is what the plan says, op by op.
#include <gtest/gtest.h>

#include <optional>
#include <vector>

#include "runtime/model/forward_plan.h"
#include "runtime/trace/trace.h"
#include "tests/tee_runner/recorded_runs.h"

namespace airlock {
namespace {

/// Of the attention of the first layer.
std::vector<Tile> tiles_of(const ModelDims& dims, const ForwardShape& shape) {
  std::vector<Tile> tiles;
  const std::vector<PlannedOp> plan = plan_forward(dims, shape).value();
  for (const PlannedOp& op : plan) {
    if (op.step == Step::kScores && op.layer == 0) tiles.push_back(op.tile);
  }
  return tiles;
}

void expect_planned(const ModelDims& dims, const ForwardShape& prompt,
                    const std::optional<PathPolicy>& policy, int runs = 1, std::int64_t chunk = 0) {
  ZeroBackend backend(dims);
  std::vector<TraceRecord> records =
      record_runs(backend, prompt, {policy, false, nullptr}, runs, chunk);
  const std::vector<PlannedOp> ops = plan_forward(dims, prompt, chunk).value();
  ASSERT_EQ(records.size(), ops.size() * static_cast<std::size_t>(runs));
  for (std::size_t i = 0; i < records.size(); ++i) {
    const PlannedOp& op = ops[i % ops.size()];
    const OpTimes& times = records[i].times;
    EXPECT_EQ(times.total_ns, times.tee_ns + times.wire_ns + times.queue_ns + times.server_ns);
    if (i > 0) {
      EXPECT_GE(records[i].start_ns, records[i - 1].start_ns);
    }
    TraceRecord expected = make_record(op.spec, op.layer, dims, policy);
    expected.seq = i;
    expected.run = i / ops.size();
    TraceRecord untimed = records[i];
    untimed.start_ns = untimed.times.total_ns = untimed.times.wire_ns = 0;
    EXPECT_TRUE(untimed == expected) << "op " << i;
  }
}

TEST(LlamaDriver, asks_exactly_the_plan_of_a_prefill) {
  for (const Attention attention : {Attention::kOffload, Attention::kTee}) {
    for (const std::int64_t tokens : {1, 2, 37, 130}) {
      for (const Logits logits : {Logits::kLast, Logits::kAll}) {
        for (const DType wire : {DType::kF32, DType::kBF16}) {
          expect_planned(kTiny, {tokens, wire, attention, logits}, PathPolicy{true, 4096, 8});
        }
      }
    }
  }
}

TEST(LlamaDriver, asks_exactly_the_plan_of_int8_rows) {
  for (const std::int64_t tokens : {1, 37}) {
    expect_planned(kTiny, {tokens, DType::kI8, Attention::kTee, Logits::kAll},
                   PathPolicy{true, 4096, 8}, 2, 11);
  }
}

TEST(LlamaDriver, asks_exactly_the_plan_of_several_runs_without_paths) {
  expect_planned(kTiny, {9, DType::kF16, Attention::kOffload, Logits::kLast}, std::nullopt, 3);
}

TEST(LlamaDriver, asks_exactly_the_plans_of_a_prompt_in_pieces) {
  for (const Attention attention : {Attention::kOffload, Attention::kTee}) {
    for (const Logits logits : {Logits::kLast, Logits::kAll}) {
      for (const std::int64_t chunk : {1, 7, 36, 37}) {
        expect_planned(kTiny, {37, DType::kF32, attention, logits}, PathPolicy{true, 4096, 8}, 2,
                       chunk);
      }
    }
  }
}

TEST(LlamaDriver, asks_exactly_the_plan_of_rows_in_tiles) {
  for (const Attention attention : {Attention::kOffload, Attention::kTee}) {
    for (const std::int64_t tile :
         {std::int64_t{1}, std::int64_t{5}, std::int64_t{36}, kAutoTile}) {
      for (const std::int64_t max_score_bytes : {std::int64_t{1000}, kMaxScoreBytes}) {
        ForwardShape prompt{37, DType::kBF16, attention, Logits::kLast, 0, max_score_bytes};
        prompt.tile = tile;
        expect_planned(kTiny, prompt, PathPolicy{true, 4096, 8}, 2);
        expect_planned(kTiny, prompt, PathPolicy{true, 4096, 8}, 1, 20);
      }
    }
  }
}

TEST(LlamaDriver, asks_exactly_the_plan_of_attention_in_tiles_behind_a_cache) {
  for (const std::int64_t max_score_bytes : {1, 1000, 3000}) {
    const ForwardShape prompt{40, DType::kF32,    Attention::kOffload, Logits::kLast,
                              0,  max_score_bytes};
    ASSERT_GT(tiles_of(kTiny, split_prompt(prompt, 20)[1]).size(), 2U);
    expect_planned(kTiny, prompt, PathPolicy{true, 4096, 8}, 1, 20);
  }
}

TEST(LlamaDriver, asks_exactly_the_plan_of_attention_in_tiles) {
  ModelDims by_groups = kTiny;
  by_groups.layers = 1;
  by_groups.head_dim = 2;
  const ForwardShape many{4200, DType::kF32, Attention::kOffload, Logits::kLast};
  ASSERT_EQ(tiles_of(by_groups, many).size(), 2U);
  expect_planned(by_groups, many, PathPolicy{true, 10485760, 8});
  ModelDims by_rows = by_groups;
  by_rows.heads = 256;
  by_rows.kv_heads = 1;
  const ForwardShape few{600, DType::kF32, Attention::kOffload, Logits::kLast};
  const auto tiles = tiles_of(by_rows, few);
  ASSERT_EQ(tiles.size(), 2U);
  ASSERT_GT(tiles[1].first_row, 0);
  expect_planned(by_rows, few, PathPolicy{true, 10485760, 8});
}

TEST(LlamaDriver, asks_exactly_the_plan_of_a_feed_forward_and_logits_in_steps) {
  ModelDims dims = kTiny;
  dims.layers = 1;
  dims.intermediate = 1 << 18;
  dims.vocab = 4 << 20;
  const ForwardShape shape{300, DType::kF32, Attention::kTee, Logits::kLast};
  ASSERT_EQ(plan_forward(dims, shape).value().size(), 1U + 2 + 2 * 2 + 1);
  expect_planned(dims, shape, PathPolicy{});
  dims.intermediate = 48;
  const ForwardShape all{20, DType::kF32, Attention::kTee, Logits::kAll};
  ASSERT_EQ(plan_forward(dims, all).value().size(), 1U + 4 + 2);
  expect_planned(dims, all, PathPolicy{});
}

}  // namespace
}  // namespace airlock
