#include "runtime/trace/passes.h"

#include <gtest/gtest.h>

#include <optional>
#include <vector>

#include "runtime/trace/summary.h"
#include "tests/trace/sample_trace.h"

namespace airlock {
namespace {

/// An op of `rows` tokens, of 12 ns: 1 in the TEE, 2 on the wire, 4 waiting, 5 computing.
TraceRecord record_of(Op op, std::int64_t rows, std::uint64_t start_ns, std::uint64_t run = 0) {
  TraceRecord record;
  record.run = run;
  record.op = op;
  record.inputs = {{{DType::kI32, {rows}}, Path::kRing, {}}};
  record.outputs = {{{DType::kF32, {rows, 64}}, Path::kRing, {}}};
  record.start_ns = start_ns;
  record.times = {12, 1, 2, 4, 5, {}};
  return record;
}

TraceHeader header_of(std::int64_t tokens) {
  TraceHeader header = sample_header();
  header.tokens = tokens;
  return header;
}

std::vector<TracePass> passes_of(const std::vector<TraceRecord>& records,
                                 const TraceHeader& header) {
  PassWalker walker(header);
  std::vector<TracePass> passes;
  const auto take = [&](const std::optional<TracePass>& pass) {
    if (pass) passes.push_back(*pass);
  };
  for (const TraceRecord& record : records) take(walker.add(record));
  take(walker.end());
  take(walker.end());
  return passes;
}

/// Embedding and lm_head, 8 ns apart.
std::vector<TraceRecord> pass_of(std::int64_t rows, std::uint64_t start_ns, std::uint64_t run = 0) {
  return {record_of(Op::kEmbedding, rows, start_ns, run),
          record_of(Op::kLmHead, rows, start_ns + 20, run)};
}

std::vector<TraceRecord> joined(std::initializer_list<std::vector<TraceRecord>> parts) {
  std::vector<TraceRecord> all;
  for (const auto& part : parts) all.insert(all.end(), part.begin(), part.end());
  return all;
}

TEST(Passes, of_a_private_mode_begin_with_the_first_layers_integers) {
  const auto integers = [](std::vector<WeightId> weights, std::int64_t rows,
                           std::uint64_t start_ns) {
    TraceRecord record = record_of(Op::kIntLinear, rows, start_ns);
    record.inputs = {{{DType::kU32, {rows, 64}}, Path::kRing, {}}};
    record.weights = std::move(weights);
    return record;
  };
  const std::vector<WeightId> first = {
      {WeightKind::kQ, 0}, {WeightKind::kK, 0}, {WeightKind::kV, 0}};
  const std::vector<WeightId> second = {
      {WeightKind::kQ, 1}, {WeightKind::kK, 1}, {WeightKind::kV, 1}};
  const auto passes =
      passes_of({integers(first, 8, 100), integers(second, 8, 120), integers({}, 1, 140),
                 integers(first, 1, 200), integers(second, 1, 220), integers({}, 1, 240)},
                header_of(8));
  ASSERT_EQ(passes.size(), 2U);
  EXPECT_EQ(passes[0].kind, PassKind::kPrefill);
  EXPECT_EQ(passes[0].sums.rows, 8U);
  EXPECT_EQ(passes[0].sums.ops, 3U);
  EXPECT_EQ(passes[1].kind, PassKind::kStep);
  EXPECT_EQ(passes[1].sums.rows, 1U);
  EXPECT_EQ(passes[1].sums.without_logits, 0U);
}

TEST(Passes, begin_with_an_embedding_each) {
  const auto passes = passes_of(joined({pass_of(8, 100), pass_of(1, 200)}), header_of(8));
  ASSERT_EQ(passes.size(), 2U);
  const PassSums expected{1, 0, 8, 2, 64, 2 * 8 * 64 * 4, 32, 8, 1, 2, 4, 8, 10};
  EXPECT_EQ(passes[0].sums, expected);
  EXPECT_EQ(passes[1].sums.rows, 1U);
}

TEST(Passes, are_steps_once_the_prompt_is_through) {
  const auto passes = passes_of(
      joined({pass_of(5, 0), pass_of(3, 100), pass_of(1, 200), pass_of(1, 300)}), header_of(8));
  std::vector<PassKind> kinds;
  for (const TracePass& pass : passes) kinds.push_back(pass.kind);
  EXPECT_EQ(kinds, (std::vector{PassKind::kPrefill, PassKind::kPrefill, PassKind::kStep,
                                PassKind::kStep}));
}

TEST(Passes, of_another_run_are_over_its_prompt_again) {
  const auto passes =
      passes_of(joined({pass_of(8, 0), pass_of(1, 100), pass_of(8, 200, 1)}), header_of(8));
  ASSERT_EQ(passes.size(), 3U);
  EXPECT_EQ(passes[1].kind, PassKind::kStep);
  EXPECT_EQ(passes[2].kind, PassKind::kPrefill);
}

TEST(Passes, have_nothing_of_what_comes_before_the_first) {
  EXPECT_TRUE(passes_of({record_of(Op::kLmHead, 1, 0)}, header_of(8)).empty());
  EXPECT_TRUE(passes_of({}, header_of(8)).empty());
}

TEST(Passes, know_what_lay_between_their_ops_where_that_can_be_known) {
  TraceHeader imported = header_of(8);
  imported.source = TraceSource::kImported;
  const auto of_import = passes_of(pass_of(8, 0), imported);
  ASSERT_EQ(of_import.size(), 1U);
  EXPECT_EQ(of_import[0].sums.between_known, 0U);
  EXPECT_EQ(of_import[0].sums.between_ns, 0U);
  const auto backwards =
      passes_of({record_of(Op::kEmbedding, 8, 100), record_of(Op::kLmHead, 8, 0)}, header_of(8));
  ASSERT_EQ(backwards.size(), 1U);
  EXPECT_EQ(backwards[0].sums.between_known, 0U);
}

TEST(Passes, that_were_cut_off_count_and_their_time_is_no_steps) {
  TraceFileSummary summary("t", header_of(8));
  for (const TraceRecord& record : joined({pass_of(8, 0), pass_of(1, 100), pass_of(1, 200)}))
    summary.add(record);
  summary.add(record_of(Op::kEmbedding, 1, 300));
  EXPECT_EQ(summary.passes[PassKind::kStep].count, 2U);
  summary.end();
  const PassTotals& steps = summary.passes[PassKind::kStep];
  EXPECT_EQ(steps.count, 3U);
  EXPECT_EQ(steps.without_logits, 1U);
  EXPECT_EQ(steps.each_ns.count(), 2U);
  EXPECT_EQ(steps.each_ns.percentile(0.5), 32U);
  EXPECT_EQ(steps.wall_ns, 32U + 32U + 12U);
  EXPECT_EQ(summary.passes[PassKind::kPrefill].each_ns.count(), 1U);
}

TEST(Passes, sums_saturate) {
  PassTotals totals;
  TracePass pass;
  pass.sums.wall_ns = UINT64_MAX - 1;
  totals.add(pass);
  totals.add(pass);
  EXPECT_EQ(totals.wall_ns, UINT64_MAX);
}

}  // namespace
}  // namespace airlock
