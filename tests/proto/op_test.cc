#include "proto/op.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "proto/limits.h"

namespace airlock {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

constexpr ModelDims kDims{.hidden = 2048,
                          .intermediate = 8192,
                          .layers = 16,
                          .heads = 32,
                          .kv_heads = 8,
                          .head_dim = 64,
                          .vocab = 128256};

TensorDesc bf16(Shape shape) { return {DType::kBF16, shape}; }
TensorDesc f32(Shape shape) { return {DType::kF32, shape}; }

void expect_refused(const OpSpec& spec, const char* text) {
  const auto results = op_results(spec, kDims);
  ASSERT_FALSE(results.ok()) << text;
  EXPECT_EQ(results.status().code(), StatusCode::kInvalidInput);
  EXPECT_THAT(results.status().message(), HasSubstr(text));
}

std::vector<TensorDesc> accepted(const OpSpec& spec) {
  auto results = op_results(spec, kDims);
  EXPECT_TRUE(results.ok()) << results.status().to_string();
  return results.ok() ? *results : std::vector<TensorDesc>{};
}

TEST(OpNames, are_those_of_the_interface) {
  EXPECT_EQ(name_of(Op::kBatchLinear), "batch_linear");
  EXPECT_EQ(name_of(Op::kLmHead), "lm_head");
  EXPECT_EQ(name_of(Op::kIntLinear), "int_linear");
  EXPECT_EQ(name_of(Op::kPadLinear), "pad_linear");
  EXPECT_EQ(name_of(WeightKind::kDown), "down_proj");
  EXPECT_EQ(kOps.size(), 9U);
  EXPECT_EQ(static_cast<int>(kOps.front()), 1);
  EXPECT_EQ(static_cast<int>(kOps.back()), 9);
}

TEST(ModelDims, of_a_real_model_are_accepted) { EXPECT_TRUE(kDims.check().ok()); }

TEST(ModelDims, each_field_outside_its_range_is_named_with_its_value) {
  const std::pair<std::int64_t ModelDims::*, const char*> fields[] = {
      {&ModelDims::hidden, "hidden"},     {&ModelDims::intermediate, "intermediate"},
      {&ModelDims::layers, "layers"},     {&ModelDims::heads, "heads"},
      {&ModelDims::kv_heads, "kv heads"}, {&ModelDims::head_dim, "head size"},
      {&ModelDims::vocab, "vocabulary"}};
  for (const auto& [field, name] : fields) {
    for (std::int64_t value :
         {std::int64_t{0}, std::int64_t{-5}, std::numeric_limits<std::int64_t>::max()}) {
      ModelDims dims = kDims;
      dims.*field = value;
      EXPECT_THAT(dims.check().message(),
                  testing::AllOf(HasSubstr(name), HasSubstr(std::to_string(value))));
    }
  }
}

TEST(ModelDims, heads_must_be_a_multiple_of_kv_heads) {
  ModelDims dims = kDims;
  dims.kv_heads = 5;
  EXPECT_EQ(dims.check().code(), StatusCode::kInvalidInput);
}

TEST(WeightShape, is_out_features_by_in_features) {
  ModelDims dims = kDims;
  dims.head_dim = 128;  // heads * head_dim need not be hidden
  EXPECT_EQ(weight_shape(dims, WeightKind::kQ), (Shape{4096, 2048}));
  EXPECT_EQ(weight_shape(dims, WeightKind::kK), (Shape{1024, 2048}));
  EXPECT_EQ(weight_shape(dims, WeightKind::kV), (Shape{1024, 2048}));
  EXPECT_EQ(weight_shape(dims, WeightKind::kO), (Shape{2048, 4096}));
  EXPECT_EQ(weight_shape(dims, WeightKind::kGate), (Shape{8192, 2048}));
  EXPECT_EQ(weight_shape(dims, WeightKind::kUp), (Shape{8192, 2048}));
  EXPECT_EQ(weight_shape(dims, WeightKind::kDown), (Shape{2048, 8192}));
}

TEST(OpResults, embedding_gives_a_row_a_token) {
  EXPECT_THAT(accepted(embedding_spec(5, DType::kBF16)), ElementsAre(bf16({5, 2048})));
}

TEST(OpResults, batch_linear_gives_one_result_a_weight) {
  const auto spec = linear_spec({{WeightKind::kQ, 3}, {WeightKind::kK, 3}, {WeightKind::kV, 15}},
                                f32({7, 2048}), DType::kF16);
  EXPECT_THAT(accepted(spec),
              ElementsAre(TensorDesc{DType::kF16, {7, 2048}}, TensorDesc{DType::kF16, {7, 512}},
                          TensorDesc{DType::kF16, {7, 512}}));
}

TEST(OpResults, matmul_groups_heads_and_transposes) {
  const auto scores = matmul_spec(bf16({32, 9, 64}), bf16({8, 11, 64}), Transpose::kB, DType::kF32);
  EXPECT_THAT(accepted(scores), ElementsAre(f32({32, 9, 11})));
  const auto plain =
      matmul_spec(bf16({32, 9, 11}), bf16({8, 11, 64}), Transpose::kNone, DType::kBF16);
  EXPECT_THAT(accepted(plain), ElementsAre(bf16({32, 9, 64})));
  const auto turned = matmul_spec(bf16({4, 11, 9}), bf16({4, 11, 64}), Transpose::kA, DType::kBF16);
  EXPECT_THAT(accepted(turned), ElementsAre(bf16({4, 9, 64})));
}

TEST(OpResults, matmul_is_of_fp64_or_not_at_all) {
  const TensorDesc a{DType::kF64, {4, 3, 5}};
  const TensorDesc b{DType::kF64, {2, 5, 7}};
  EXPECT_THAT(accepted(matmul_spec(a, b, Transpose::kNone, DType::kF64)),
              ElementsAre(TensorDesc{DType::kF64, {4, 3, 7}}));
  expect_refused(matmul_spec(a, b, Transpose::kNone, DType::kF32), "fp64, or none");
  expect_refused(matmul_spec(f32({4, 3, 5}), f32({2, 5, 7}), Transpose::kNone, DType::kF64),
                 "fp64, or none");
  expect_refused(matmul_spec(a, f32({2, 5, 7}), Transpose::kNone, DType::kF64), "one type");
  expect_refused(linear_spec({{WeightKind::kQ, 0}}, {DType::kF64, {3, 2048}}, DType::kF32),
                 "x is fp64");
  expect_refused(linear_spec({{WeightKind::kQ, 0}}, f32({3, 2048}), DType::kF64), "result dtype");
}

TEST(OpResults, int8_rows_have_a_scale_for_each_32_numbers) {
  const auto i8 = [](Shape shape) { return TensorDesc{DType::kI8, shape}; };
  EXPECT_THAT(accepted(embedding_spec(5, DType::kI8)), ElementsAre(i8({5, 2176})));
  const std::vector<WeightId> qkv = {{WeightKind::kQ, 3}, {WeightKind::kK, 3}, {WeightKind::kV, 3}};
  EXPECT_THAT(accepted(linear_spec(qkv, i8({7, 2176}), DType::kI8)),
              ElementsAre(i8({7, 2176}), i8({7, 544}), i8({7, 544})));
  EXPECT_THAT(accepted(linear_spec({{WeightKind::kDown, 0}}, i8({7, 8704}), DType::kBF16)),
              ElementsAre(bf16({7, 2048})));
  EXPECT_THAT(accepted(linear_spec({{WeightKind::kDown, 0}}, f32({7, 8192}), DType::kI8)),
              ElementsAre(i8({7, 2176})));
  EXPECT_THAT(accepted(lm_head_spec(i8({2, 2176}))), ElementsAre(f32({2, 128256})));
}

TEST(OpResults, int8_rows_are_bounded_as_what_they_become) {
  const WeightId gate{WeightKind::kGate, 0};
  const TensorDesc x{DType::kI8, Shape{limits::kMaxTokens, 2176}};
  EXPECT_EQ(accepted(linear_spec({gate, gate}, x, DType::kI8)).size(), 2U);
  expect_refused(linear_spec({gate, gate, gate}, x, DType::kI8), "the results have");
}

TEST(OpResults, int8_rows_without_their_scales_or_elsewhere_are_refused) {
  const auto i8 = [](Shape shape) { return TensorDesc{DType::kI8, shape}; };
  const WeightId q{WeightKind::kQ, 0};
  for (const std::int64_t columns : {4, 2047, 2048, 2050, 2052, 2174, 2175, 2177, 2178}) {
    expect_refused(linear_spec({q}, i8({7, columns}), DType::kI8), "expected 2176 columns");
    expect_refused(lm_head_spec(i8({7, columns})), "expected 2176 columns");
  }
  expect_refused(linear_spec({q}, i8({7, 2176, 1}), DType::kI8), "expected rank 2");
  expect_refused(linear_spec({q}, i8({0, 2176}), DType::kI8), "empty extent");
  expect_refused(linear_spec({q}, bf16({7, 2176}), DType::kI8), "expected 2048 columns");
  const TensorDesc a = i8({4, 3, 8});
  expect_refused(matmul_spec(a, a, Transpose::kB, DType::kI8), "result dtype is int8");
  expect_refused(matmul_spec(a, a, Transpose::kB, DType::kF32), "a is int8");
  OpSpec head = lm_head_spec(i8({2, 2176}));
  head.result_dtype = DType::kI8;
  expect_refused(head, "result dtype is int8");
  OpSpec words = int_linear_spec({q}, 1, 2, kDims);
  words.result_dtype = DType::kI8;
  expect_refused(words, "result dtype is int8");
}

TEST(OpResults, without_a_model_there_is_matmul_alone) {
  const ModelDims none;
  EXPECT_TRUE(none.is_none());
  EXPECT_FALSE(none.check().ok());
  const TensorDesc a = f32({1, 3, 3});
  EXPECT_TRUE(op_results(matmul_spec(a, a, Transpose::kNone, DType::kF32), none).ok());
  EXPECT_TRUE(op_results(OpSpec{}, none).ok());
  for (const OpSpec& spec : {embedding_spec(3, DType::kF32), lm_head_spec(f32({1, 1})),
                             linear_spec({{WeightKind::kQ, 0}}, f32({1, 1}), DType::kF32)}) {
    EXPECT_THAT(op_results(spec, none).status().message(), HasSubstr("no model"));
  }
}

TEST(OpResults, lm_head_gives_fp32_logits) {
  EXPECT_THAT(accepted(lm_head_spec(bf16({2, 2048}))), ElementsAre(f32({2, 128256})));
}

TEST(OpResults, integer_ops_give_one_result_a_weight_and_plane) {
  const std::vector<WeightId> qkv = {{WeightKind::kQ, 3}, {WeightKind::kK, 3}, {WeightKind::kV, 3}};
  const TensorDesc q{DType::kU32, {7, 2048}};
  const TensorDesc kv{DType::kU32, {7, 512}};
  EXPECT_THAT(accepted(int_linear_spec(qkv, 1, 7, kDims)), ElementsAre(q, kv, kv));
  EXPECT_THAT(accepted(int_linear_spec(qkv, 2, 7, kDims)), ElementsAre(q, q, kv, kv, kv, kv));
  EXPECT_THAT(accepted(pad_linear_spec(qkv, 2, 7)), ElementsAre(q, q, kv, kv, kv, kv));
  const TensorDesc logits{DType::kU32, {7, 128256}};
  EXPECT_THAT(accepted(int_linear_spec({}, 1, 7, kDims)), ElementsAre(logits));
  EXPECT_THAT(accepted(pad_linear_spec({}, 1, 7)), ElementsAre(logits));
}

TEST(OpResultsRefuses, integer_ops_that_make_no_sense) {
  const OpSpec good = int_linear_spec({{WeightKind::kQ, 3}}, 1, 7, kDims);
  const OpSpec pads = pad_linear_spec({{WeightKind::kQ, 3}}, 1, 7);
  const auto refused = [](OpSpec spec, const char* text, void (*spoil)(OpSpec&)) {
    spoil(spec);
    expect_refused(spec, text);
  };
  for (const OpSpec& spec : {good, pads}) {
    refused(spec, "planes", [](OpSpec& s) { s.planes = 0; });
    refused(spec, "planes", [](OpSpec& s) { s.planes = 3; });
    refused(spec, "result dtype", [](OpSpec& s) { s.result_dtype = DType::kF32; });
    refused(spec, "layer 16", [](OpSpec& s) { s.weights[0].layer = 16; });
    refused(spec, "one linear", [](OpSpec& s) { s.weights.push_back({WeightKind::kO, 3}); });
    refused(spec, "one linear", [](OpSpec& s) { s.weights.push_back({WeightKind::kK, 4}); });
    refused(spec, "weights", [](OpSpec& s) { s.weights.assign(9, {WeightKind::kQ, 3}); });
    refused(spec, "over 8 results", [](OpSpec& s) {
      s.weights.assign(5, {WeightKind::kQ, 3});
      s.planes = 2;
    });
    refused(spec, "transposition", [](OpSpec& s) { s.transpose = Transpose::kB; });
    refused(spec, "inputs", [](OpSpec& s) { s.inputs.push_back({DType::kU32, {1, 1}}); });
  }
  refused(good, "expected uint32", [](OpSpec& s) { s.inputs[0].dtype = DType::kI32; });
  refused(good, "2048 columns", [](OpSpec& s) { s.inputs[0].shape = {7, 2047}; });
  refused(good, "rank 2", [](OpSpec& s) { s.inputs[0].shape = {7}; });
  refused(good, "rows", [](OpSpec& s) { s.inputs[0].shape = {131073, 2048}; });
  refused(pads, "key", [](OpSpec& s) { s.inputs[0].shape = {15}; });
  refused(pads, "key", [](OpSpec& s) { s.inputs[0].dtype = DType::kI32; });
  refused(pads, "2 columns", [](OpSpec& s) { s.inputs[1].shape = {7, 3}; });
  refused(pads, "expected uint32", [](OpSpec& s) { s.inputs[1].dtype = DType::kF32; });
  refused(pads, "rows", [](OpSpec& s) { s.inputs[1].shape = {131073, 2}; });
  OpSpec floats = linear_spec({{WeightKind::kQ, 0}}, bf16({3, 2048}), DType::kBF16);
  floats.planes = 1;
  expect_refused(floats, "planes");
}

TEST(OpResults, ping_gives_nothing) { EXPECT_TRUE(accepted(OpSpec{}).empty()); }

TEST(OpResults, init_and_stats_are_sized_by_the_server) {
  for (Op op : {Op::kInit, Op::kStats}) {
    OpSpec spec;
    spec.op = op;
    expect_refused(spec, "sized by the server");
  }
}

TEST(OpResultsRefuses, another_number_of_inputs) {
  OpSpec spec = embedding_spec(5, DType::kF32);
  spec.inputs.push_back(spec.inputs[0]);
  expect_refused(spec, "2 inputs, expected 1");
  spec.inputs.clear();
  expect_refused(spec, "0 inputs, expected 1");
  spec = OpSpec{};
  spec.inputs = {f32({1})};
  expect_refused(spec, "ping has 1 inputs");
}

TEST(OpResultsRefuses, a_result_dtype_that_is_no_float) {
  expect_refused(embedding_spec(5, DType::kI32), "int32");
  OpSpec spec = lm_head_spec(f32({1, 2048}));
  spec.result_dtype = DType::kBF16;
  expect_refused(spec, "bf16, expected fp32");
}

TEST(OpResultsRefuses, fields_of_another_op) {
  OpSpec spec = embedding_spec(5, DType::kF32);
  spec.weights = {{WeightKind::kQ, 0}};
  expect_refused(spec, "names 1 weights");
  spec = lm_head_spec(f32({1, 2048}));
  spec.transpose = Transpose::kB;
  expect_refused(spec, "transposition");
}

TEST(OpResultsRefuses, ids_that_are_no_list_of_int32) {
  OpSpec spec = embedding_spec(5, DType::kF32);
  spec.inputs[0] = f32({5});
  expect_refused(spec, "ids are fp32");
  spec.inputs[0] = {DType::kI32, {1, 5}};
  expect_refused(spec, "expected rank 1");
}

TEST(OpResultsRefuses, no_tokens_and_too_many) {
  expect_refused(embedding_spec(0, DType::kF32), "empty extent");
  expect_refused(embedding_spec(limits::kMaxTokens + 1, DType::kF32), "131073");
  expect_refused(
      linear_spec({{WeightKind::kQ, 0}}, bf16({limits::kMaxTokens + 1, 2048}), DType::kBF16),
      "131073");
}

TEST(OpResultsRefuses, too_few_and_too_many_weights) {
  expect_refused(linear_spec({}, f32({1, 2048}), DType::kF32), "0 weights");
  const std::vector<WeightId> nine(9, WeightId{WeightKind::kQ, 0});
  expect_refused(linear_spec(nine, f32({1, 2048}), DType::kF32), "9 weights");
}

TEST(OpResultsRefuses, a_layer_that_the_model_has_not) {
  expect_refused(linear_spec({{WeightKind::kQ, 16}}, f32({1, 2048}), DType::kF32), "layer 16");
}

TEST(OpResultsRefuses, weights_that_take_another_width) {
  const std::vector<WeightId> mixed = {{WeightKind::kQ, 0}, {WeightKind::kDown, 0}};
  expect_refused(linear_spec(mixed, f32({1, 2048}), DType::kF32), "down_proj takes 8192");
}

TEST(OpResultsRefuses, an_input_of_another_width_rank_or_type) {
  expect_refused(linear_spec({{WeightKind::kQ, 0}}, f32({1, 2047}), DType::kF32), "2047");
  expect_refused(linear_spec({{WeightKind::kQ, 0}}, f32({2048}), DType::kF32), "rank 2");
  expect_refused(linear_spec({{WeightKind::kQ, 0}}, {DType::kI32, {1, 2048}}, DType::kF32),
                 "float type");
  expect_refused(lm_head_spec(f32({0, 2048})), "empty extent");
}

TEST(OpResultsRefuses, matmul_operands_that_do_not_fit) {
  const auto refused = [](Shape a, Shape b, Transpose transpose, const char* text) {
    expect_refused(matmul_spec(f32(a), f32(b), transpose, DType::kF32), text);
  };
  refused({4, 2, 3}, {4, 4, 5}, Transpose::kNone, "k is 3 and 4");
  refused({4, 2, 3}, {4, 3, 5}, Transpose::kB, "k is 3 and 5");
  refused({4, 2, 3}, {4, 3, 5}, Transpose::kA, "k is 2 and 3");
  refused({4, 2, 3}, {3, 3, 5}, Transpose::kNone, "3 groups");
  refused({4, 2, 3}, {8, 3, 5}, Transpose::kNone, "8 groups");
  refused({4, 2, 3}, {3, 5}, Transpose::kNone, "rank 3");
  refused({4, 2, 3}, {0, 3, 5}, Transpose::kNone, "empty extent");
  refused({1025, 1, 1}, {1, 1, 1}, Transpose::kNone, "heads of a");
  expect_refused(matmul_spec(f32({4, 2, 3}), bf16({4, 3, 5}), Transpose::kNone, DType::kF32),
                 "one type");
}

TEST(OpResultsRefuses, tensors_over_the_limit) {
  expect_refused(
      matmul_spec(f32({1024, 131072, 64}), f32({1, 64, 1}), Transpose::kNone, DType::kF32), "over");
  // Small operands, a result of 2^44 bytes.
  expect_refused(
      matmul_spec(f32({256, 131072, 1}), f32({1, 1, 131072}), Transpose::kNone, DType::kF32),
      "result 0");
  expect_refused(lm_head_spec(f32({100000, 2048})), "result 0");
}

TEST(OpResultsRefuses, messages_over_the_limit) {
  const std::vector<WeightId> eight(8, WeightId{WeightKind::kGate, 0});
  expect_refused(linear_spec(eight, bf16({131072, 2048}), DType::kBF16), "results have");
}

TEST(OpResultsRefuses, extents_whose_product_overflows) {
  constexpr std::int64_t kHuge = std::numeric_limits<std::int64_t>::max();
  expect_refused(linear_spec({{WeightKind::kQ, 0}}, f32({kHuge, 2048}), DType::kF32), "over");
  expect_refused(
      matmul_spec(f32({kHuge, kHuge, kHuge}), f32({1, 1, 1}), Transpose::kNone, DType::kF32),
      "over");
}

TEST(OpFlop, counts_each_multiplication_and_addition) {
  const ModelDims dims{.hidden = 4,
                       .intermediate = 6,
                       .layers = 1,
                       .heads = 2,
                       .kv_heads = 1,
                       .head_dim = 2,
                       .vocab = 10};
  const TensorDesc x{DType::kF32, Shape{3, 4}};
  EXPECT_EQ(
      op_flop(linear_spec({{WeightKind::kQ, 0}, {WeightKind::kGate, 0}}, x, DType::kF32), dims),
      2U * 3 * 4 * (4 + 6));
  EXPECT_EQ(op_flop(lm_head_spec(x), dims), 2U * 3 * 4 * 10);
  const TensorDesc a{DType::kF32, Shape{6, 5, 7}};
  const TensorDesc a_transposed{DType::kF32, Shape{6, 7, 5}};
  const TensorDesc b{DType::kF32, Shape{2, 7, 9}};
  const TensorDesc b_transposed{DType::kF32, Shape{2, 9, 7}};
  const std::uint64_t flop = 2U * 6 * 5 * 7 * 9;
  EXPECT_EQ(op_flop(matmul_spec(a, b, Transpose::kNone, DType::kF32), dims), flop);
  EXPECT_EQ(op_flop(matmul_spec(a_transposed, b, Transpose::kA, DType::kF32), dims), flop);
  EXPECT_EQ(op_flop(matmul_spec(a, b_transposed, Transpose::kB, DType::kF32), dims), flop);
  EXPECT_EQ(op_flop(int_linear_spec({{WeightKind::kQ, 0}, {WeightKind::kK, 0}}, 2, 3, dims), dims),
            4U * 2 * 2 * 3 * 4 * (4 + 2));
  EXPECT_EQ(op_flop(pad_linear_spec({}, 1, 3), dims), 4U * 2 * 3 * 4 * 10);
  EXPECT_EQ(op_flop(embedding_spec(5, DType::kF32), dims), 0U);
  EXPECT_EQ(op_flop(OpSpec{}, dims), 0U);
}

TEST(OpFlop, holds_the_largest_product_that_is_allowed) {
  const TensorDesc a{DType::kF32, Shape{limits::kMaxHeads, limits::kMaxTokens, limits::kMaxTokens}};
  const TensorDesc b{DType::kF32, Shape{1, limits::kMaxTokens, limits::kMaxTokens}};
  EXPECT_EQ(op_flop(matmul_spec(a, b, Transpose::kNone, DType::kF32), {}), std::uint64_t{1} << 62);
}

}  // namespace
}  // namespace airlock
