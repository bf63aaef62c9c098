#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "base/thread_pool.h"
#include "proto/handshake.h"
#include "runtime/backend.h"
#include "runtime/exact/int8_weights.h"
#include "runtime/exact/pad.h"
#include "tests/support/int8_copy.h"
#include "tests/support/memory_model.h"
#include "tests/support/reference_ops.h"

/// What every Backend must do, whatever computes behind it. A new one joins with
/// INSTANTIATE_TEST_SUITE_P on BackendConformance and a factory; each test asks for a backend of
/// its own.
namespace airlock::testing {

/// A backend and whatever must live as long (a server thread, a channel).
class BackendUnderTest {
 public:
  virtual ~BackendUnderTest() = default;
  virtual Backend& backend() = 0;
  /// One that takes the integer op of a session in this mode, kVerify or kDealer, with two planes
  /// of int8 weights; lives as long as this.
  virtual Backend* integers(Privacy mode) = 0;
};

struct BackendCase {
  std::string name;
  DType dtype = DType::kF32;
  bool tied = false;
  std::function<std::unique_ptr<BackendUnderTest>(const MemoryModel& model, DType dtype)> make;
};

inline std::string backend_case_name(const ::testing::TestParamInfo<BackendCase>& info) {
  return info.param.name + "_" + std::string(name_of(info.param.dtype)) +
         (info.param.tied ? "_tied" : "");
}

inline constexpr std::array kFloatTypes{DType::kF32, DType::kF16, DType::kBF16};
/// Of what matmul takes.
inline constexpr std::array kMatmulTypes{DType::kF32, DType::kF16, DType::kBF16, DType::kF64};

class BackendConformance : public ::testing::TestWithParam<BackendCase> {
 protected:
  BackendConformance() : model_(options()), subject_(GetParam().make(model_, GetParam().dtype)) {}

  static MemoryModel::Options options() {
    MemoryModel::Options options;
    options.tied = GetParam().tied;
    return options;
  }
  static Deadline soon() { return Deadline::after(std::chrono::seconds(60)); }
  Backend& backend() { return subject_->backend(); }
  const ModelDims& dims() const { return model_.config().dims; }

  struct Outcome {
    Status status;
    std::vector<Tensor> results;  // copies
    OpTimes times;
  };
  static Outcome finish(Pending& pending) {
    Outcome outcome;
    outcome.status = pending.submit();
    if (outcome.status.ok()) outcome.status = pending.wait();
    for (std::size_t i = 0; outcome.status.ok() && i < pending.result_descs().size(); ++i) {
      const TensorView view = pending.result(i);
      EXPECT_EQ(view.desc, pending.result_descs()[i]);
      Tensor copy(view.desc);
      std::memcpy(copy.mutable_view().data, view.data, view.desc.bytes());
      outcome.results.push_back(std::move(copy));
    }
    if (outcome.status.ok()) outcome.times = pending.times();
    return outcome;
  }
  static void fill(Pending& pending, const std::vector<Tensor>& inputs) {
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      const MutableTensorView to = pending.input(i);
      ASSERT_EQ(to.desc, inputs[i].desc());
      std::memcpy(to.data, inputs[i].view().data, to.desc.bytes());
    }
  }
  Outcome run(const OpSpec& spec, const std::vector<Tensor>& inputs) {
    return run(backend(), spec, inputs);
  }
  static Outcome run(Backend& asked, const OpSpec& spec, const std::vector<Tensor>& inputs) {
    auto pending = asked.prepare(spec, soon());
    if (!pending.ok()) return {pending.status(), {}, {}};
    fill(**pending, inputs);
    return finish(**pending);
  }
  std::vector<ReferenceResult> reference(const OpSpec& spec,
                                         const std::vector<Tensor>& inputs) const {
    std::vector<TensorView> views;
    for (const Tensor& input : inputs) views.push_back(input.view());
    return reference_op(model_, GetParam().dtype, spec, views);
  }
  static void expect_close(const std::vector<Tensor>& got,
                           const std::vector<ReferenceResult>& want) {
    ASSERT_EQ(got.size(), want.size());
    for (std::size_t i = 0; i < got.size(); ++i) {
      double worst = 0;
      EXPECT_EQ(count_outside_tolerance(got[i].view(), want[i], worst), 0U)
          << "result " << i << " " << got[i].desc().shape.to_string() << ", worst error " << worst
          << " tolerances";
    }
  }
  void check(const OpSpec& spec, const std::vector<Tensor>& inputs) {
    const Outcome outcome = run(spec, inputs);
    ASSERT_TRUE(outcome.status.ok()) << outcome.status.to_string();
    for (const Tensor& result : outcome.results) EXPECT_EQ(result.desc().dtype, spec.result_dtype);
    expect_close(outcome.results, reference(spec, inputs));
  }
  /// The int8 weights as the rule makes them.
  void make_int8(Int8Copy& copy) const {
    const auto pool = ThreadPool::create(1).value();
    ASSERT_TRUE(make_int8_weights(model_, Int8Weights::kW16, *pool, copy.sink()).ok());
  }
  /// Results of words, which have no tolerance.
  static void expect_words(const Outcome& outcome,
                           const std::vector<std::vector<std::uint32_t>>& want) {
    ASSERT_TRUE(outcome.status.ok()) << outcome.status.to_string();
    ASSERT_EQ(outcome.results.size(), want.size());
    for (std::size_t i = 0; i < want.size(); ++i)
      EXPECT_TRUE(std::ranges::equal(outcome.results[i].as<std::uint32_t>(), want[i])) << i;
  }
  Tensor activations(std::int64_t rows, std::int64_t columns, DType dtype,
                     std::uint64_t seed = 7) const {
    return random_tensor({dtype, Shape{rows, columns}}, seed);
  }
  static std::vector<Tensor> list(Tensor a) {
    std::vector<Tensor> tensors;
    tensors.push_back(std::move(a));
    return tensors;
  }
  static std::vector<Tensor> list(Tensor a, Tensor b) {
    std::vector<Tensor> tensors = list(std::move(a));
    tensors.push_back(std::move(b));
    return tensors;
  }
  /// Rows that need one, two and four digits, one after the other, and rows of any words.
  static std::vector<std::uint32_t> random_words(std::size_t count, std::int64_t rows) {
    std::mt19937_64 random(count);
    std::vector<std::uint32_t> words(count);
    const std::size_t k = count / static_cast<std::size_t>(rows);
    for (std::size_t i = 0; i < count; ++i) {
      const auto any = static_cast<std::uint32_t>(random());
      const std::array<std::uint32_t, 4> choices = {any % 65536 - 32896, any % 256 - 128, any,
                                                    0x80000000U - any % 2};
      words[i] = choices[i / k % 4];
    }
    return words;
  }
  static bool same_bits(const Tensor& a, const Tensor& b) {
    return a.desc() == b.desc() && std::memcmp(a.view().data, b.view().data, a.desc().bytes()) == 0;
  }

  MemoryModel model_;
  std::unique_ptr<BackendUnderTest> subject_;
};

TEST_P(BackendConformance, says_what_it_computes_with) {
  EXPECT_EQ(backend().info().dims, dims());
  EXPECT_EQ(backend().info().dtype, GetParam().dtype);
  EXPECT_EQ(backend().info().stored_dtype, model_.stored_dtype());
  EXPECT_EQ(backend().info().digest, model_.digest().value());
  EXPECT_GE(backend().info().threads, 1U);
  EXPECT_FALSE(backend().info().device.empty());
  EXPECT_FALSE(backend().info().fp64_products.empty());
}

TEST_P(BackendConformance, embeds_tokens_in_every_result_type) {
  const std::array<std::int32_t, 5> ids{0, 499, 17, 17, 384};
  for (const DType result : kFloatTypes) {
    SCOPED_TRACE(name_of(result));
    check(embedding_spec(5, result), list(token_tensor(ids)));
  }
}

TEST_P(BackendConformance, multiplies_by_every_weight_in_every_wire_type) {
  for (const DType wire : kFloatTypes) {
    for (const std::uint16_t layer : {std::uint16_t{0}, std::uint16_t{1}}) {
      for (int kind = 1; kind <= 7; ++kind) {
        const WeightId id{static_cast<WeightKind>(kind), layer};
        SCOPED_TRACE(weight_name(id) + " " + std::string(name_of(wire)));
        const Tensor x = activations(9, weight_shape(dims(), id.kind)[1], wire);
        check(linear_spec({id}, x.desc(), wire), list(activations(9, x.desc().shape[1], wire)));
      }
    }
  }
}

TEST_P(BackendConformance, converts_between_wire_types_in_one_op) {
  for (const DType from : kFloatTypes) {
    for (const DType to : kFloatTypes) {
      SCOPED_TRACE(std::string(name_of(from)) + " to " + std::string(name_of(to)));
      Tensor x = activations(3, dims().hidden, from);
      const TensorDesc desc = x.desc();
      check(linear_spec({{WeightKind::kUp, 1}}, desc, to), list(std::move(x)));
    }
  }
}

TEST_P(BackendConformance, multiplies_one_input_by_several_weights) {
  Tensor x = activations(11, dims().hidden, DType::kF32);
  const OpSpec spec = linear_spec({{WeightKind::kQ, 0},
                                   {WeightKind::kK, 0},
                                   {WeightKind::kV, 0},
                                   {WeightKind::kQ, 0},
                                   {WeightKind::kGate, 1},
                                   {WeightKind::kUp, 1},
                                   {WeightKind::kQ, 1},
                                   {WeightKind::kV, 1}},
                                  x.desc(), DType::kF32);
  check(spec, list(std::move(x)));
}

TEST_P(BackendConformance, takes_every_number_of_rows) {
  for (const std::int64_t rows : {1, 2, 3, 16, 31, 64, 65, 200}) {
    SCOPED_TRACE(rows);
    Tensor x = activations(rows, dims().intermediate, GetParam().dtype);
    const TensorDesc desc = x.desc();
    check(linear_spec({{WeightKind::kDown, 0}}, desc, DType::kF32), list(std::move(x)));
  }
}

TEST_P(BackendConformance, gives_fp32_logits) {
  for (const DType wire : kFloatTypes) {
    for (const std::int64_t rows : {1, 6}) {
      SCOPED_TRACE(rows);
      Tensor x = activations(rows, dims().hidden, wire);
      const OpSpec spec = lm_head_spec(x.desc());
      check(spec, list(std::move(x)));
    }
  }
}

TEST_P(BackendConformance, multiplies_grouped_heads_in_every_transposition) {
  struct Size {
    std::int64_t heads, groups, m, k, n;
  };
  const std::array<Size, 6> sizes{{{6, 2, 7, 18, 13},
                                   {4, 4, 1, 16, 33},
                                   {8, 1, 5, 1, 1},
                                   {1, 1, 40, 70, 64},
                                   {6, 3, 1, 64, 1},
                                   {2, 1, 65, 33, 96}}};
  for (const Size& s : sizes) {
    for (const Transpose transpose : {Transpose::kNone, Transpose::kA, Transpose::kB}) {
      for (const DType wire : kMatmulTypes) {
        const Shape a =
            transpose == Transpose::kA ? Shape{s.heads, s.k, s.m} : Shape{s.heads, s.m, s.k};
        const Shape b =
            transpose == Transpose::kB ? Shape{s.groups, s.n, s.k} : Shape{s.groups, s.k, s.n};
        SCOPED_TRACE(a.to_string() + " x " + b.to_string() + " " +
                     std::to_string(static_cast<int>(transpose)) + " " +
                     std::string(name_of(wire)));
        const TensorDesc a_desc{wire, a};
        const TensorDesc b_desc{wire, b};
        check(matmul_spec(a_desc, b_desc, transpose, wire),
              list(random_tensor(a_desc, 3), random_tensor(b_desc, 4)));
      }
    }
  }
}

TEST_P(BackendConformance, multiplies_words_by_int8_weights_exactly) {
  Backend* const asked = subject_->integers(Privacy::kVerify);
  Int8Copy weights;
  make_int8(weights);
  const std::vector<std::vector<WeightId>> linears = {
      {{WeightKind::kQ, 0}, {WeightKind::kK, 0}, {WeightKind::kV, 0}},
      {{WeightKind::kO, 1}},
      {{WeightKind::kUp, 1}, {WeightKind::kGate, 1}},
      {{WeightKind::kDown, 0}},
      {}};
  for (const std::vector<WeightId>& linear : linears) {
    for (const std::uint8_t planes : {std::uint8_t{1}, std::uint8_t{2}}) {
      for (const std::int64_t rows : {1, 2, 5, 17, 64, 130}) {
        const OpSpec spec = int_linear_spec(linear, planes, rows, dims());
        SCOPED_TRACE(std::string(name_of(linear_of(spec))) + " " + std::to_string(rows));
        const auto words = random_words(spec.inputs[0].elements(), rows);
        Tensor x(spec.inputs[0]);
        std::ranges::copy(words, x.as<std::uint32_t>().begin());
        expect_words(run(*asked, spec, list(std::move(x))),
                     int_linear_results_of(weights, spec, words,
                                           static_cast<std::size_t>(spec.inputs[0].shape[1])));
      }
    }
  }
}

TEST_P(BackendConformance, multiplies_pads_that_it_makes_of_a_key) {
  Backend* const asked = subject_->integers(Privacy::kDealer);
  Int8Copy weights;
  make_int8(weights);
  PadKey key{};
  for (std::size_t i = 0; i < key.size(); ++i) key[i] = static_cast<std::byte>(i * 7 + 1);
  WordStream stream = WordStream::create(key).value();
  for (const OpSpec& spec :
       {pad_linear_spec({{WeightKind::kQ, 1}, {WeightKind::kV, 1}}, 2, 1),
        pad_linear_spec({{WeightKind::kDown, 0}}, 1, 33), pad_linear_spec({}, 2, 5)}) {
    SCOPED_TRACE(name_of(linear_of(spec)));
    const auto rows = static_cast<std::size_t>(spec.inputs[1].shape[0]);
    const auto k = static_cast<std::size_t>(weight_shapes(spec, dims())[0][1]);
    Tensor key_tensor(spec.inputs[0]);
    std::memcpy(key_tensor.mutable_view().data, key.data(), key.size());
    Tensor places(spec.inputs[1]);
    std::vector<std::uint32_t> pads(rows * k);
    for (std::size_t row = 0; row < rows; ++row) {
      const auto epoch = static_cast<std::uint32_t>(900 - 3 * row);
      const auto number = static_cast<std::uint32_t>(row * row + 4);
      places.as<std::uint32_t>()[2 * row] = epoch;
      places.as<std::uint32_t>()[2 * row + 1] = number;
      ASSERT_TRUE(stream
                      .words({epoch, layer_of(spec), linear_of(spec), number},
                             std::span(pads).subspan(row * k, k))
                      .ok());
    }
    expect_words(run(*asked, spec, list(std::move(key_tensor), std::move(places))),
                 int_linear_results_of(weights, spec, pads, k));
  }
}

TEST_P(BackendConformance, says_what_it_lends_and_what_will_come) {
  for (const OpSpec& spec :
       {embedding_spec(3, DType::kF16),
        linear_spec({{WeightKind::kQ, 0}, {WeightKind::kK, 0}},
                    {DType::kF32, Shape{5, dims().hidden}}, DType::kBF16),
        matmul_spec({DType::kF32, Shape{6, 2, 3}}, {DType::kF32, Shape{3, 3, 4}}, Transpose::kNone,
                    DType::kF32)}) {
    auto pending = backend().prepare(spec, soon());
    ASSERT_TRUE(pending.ok()) << pending.status().to_string();
    EXPECT_TRUE(std::ranges::equal((*pending)->result_descs(), op_results(spec, dims()).value()));
    for (std::size_t i = 0; i < spec.inputs.size(); ++i) {
      const MutableTensorView place = (*pending)->input(i);
      EXPECT_EQ(place.desc, spec.inputs[i]);
      EXPECT_EQ(place.data, (*pending)->input(i).data) << "a place stays where it is";
      EXPECT_EQ(reinterpret_cast<std::uintptr_t>(place.data) % 64, 0U);
    }
  }
}

TEST_P(BackendConformance, takes_an_input_that_is_written_in_blocks_of_rows) {
  const Tensor x = activations(6, dims().hidden, DType::kF32);
  const OpSpec spec = linear_spec({{WeightKind::kQ, 0}}, x.desc(), DType::kF32);
  const Outcome whole = run(spec, list(activations(6, dims().hidden, DType::kF32)));
  auto pending = backend().prepare(spec, soon());
  ASSERT_TRUE(whole.status.ok() && pending.ok());
  const std::size_t row_bytes = x.desc().bytes() / 6;
  for (const std::size_t row : {4, 5, 0, 1, 2, 3}) {
    std::memcpy((*pending)->input(0).data + row * row_bytes, x.view().data + row * row_bytes,
                row_bytes);
  }
  const Outcome blocks = finish(**pending);
  ASSERT_TRUE(blocks.status.ok()) << blocks.status.to_string();
  EXPECT_TRUE(same_bits(blocks.results[0], whole.results[0]));
}

TEST_P(BackendConformance, tells_times_whose_parts_add_up) {
  Tensor x = activations(5, dims().hidden, DType::kF32);
  const OpSpec spec = linear_spec({{WeightKind::kQ, 0}}, x.desc(), DType::kF32);
  const OpTimes times = run(spec, list(std::move(x))).times;
  EXPECT_GT(times.server_ns, 0U);
  EXPECT_GT(times.wire_ns, 0U);
  EXPECT_EQ(times.total_ns, times.tee_ns + times.wire_ns + times.queue_ns + times.server_ns);
}

TEST_P(BackendConformance, gives_the_same_bits_each_time) {
  Tensor x = activations(37, dims().hidden, DType::kF32);
  const OpSpec spec =
      linear_spec({{WeightKind::kQ, 0}, {WeightKind::kGate, 0}}, x.desc(), DType::kF32);
  const std::vector<Tensor> inputs = list(std::move(x));
  const Outcome first = run(spec, inputs);
  ASSERT_TRUE(first.status.ok());
  for (int round = 0; round < 5; ++round) {
    const Outcome again = run(spec, inputs);
    ASSERT_TRUE(again.status.ok());
    EXPECT_TRUE(same_bits(first.results[0], again.results[0]));
    EXPECT_TRUE(same_bits(first.results[1], again.results[1]));
  }
}

TEST_P(BackendConformance, keeps_several_ops_apart) {
  constexpr std::size_t kCount = 4;
  std::vector<std::vector<Tensor>> inputs;
  std::vector<OpSpec> specs;
  std::vector<std::unique_ptr<Pending>> pending;
  for (std::size_t i = 0; i < kCount; ++i) {
    inputs.push_back(
        list(activations(static_cast<std::int64_t>(4 + i), dims().hidden, DType::kF32, i)));
    specs.push_back(linear_spec({{WeightKind::kQ, 0}}, inputs[i][0].desc(), DType::kF32));
    auto prepared = backend().prepare(specs[i], soon());
    ASSERT_TRUE(prepared.ok()) << prepared.status().to_string();
    fill(**prepared, inputs[i]);
    pending.push_back(std::move(*prepared));
  }
  for (auto& op : pending) ASSERT_TRUE(op->submit().ok());
  for (std::size_t i = 0; i < kCount; ++i) {
    ASSERT_TRUE(pending[i]->wait().ok());
    double worst = 0;
    EXPECT_EQ(
        count_outside_tolerance(pending[i]->result(0), reference(specs[i], inputs[i])[0], worst),
        0U)
        << i;
  }
}

TEST_P(BackendConformance, keeps_fp64_apart_from_what_else_is_under_way) {
  constexpr std::array kTypes{DType::kF64, DType::kF32, DType::kF64, DType::kBF16, DType::kF64};
  std::vector<std::vector<Tensor>> inputs;
  std::vector<OpSpec> specs;
  std::vector<std::unique_ptr<Pending>> pending;
  for (std::size_t i = 0; i < kTypes.size(); ++i) {
    const auto rows = static_cast<std::int64_t>(5 + 3 * i);
    const TensorDesc a{kTypes[i], Shape{4, rows, 24}};
    const TensorDesc b{kTypes[i], Shape{2, 24, 19}};
    inputs.push_back(list(random_tensor(a, i), random_tensor(b, i + 100)));
    specs.push_back(matmul_spec(a, b, Transpose::kNone, kTypes[i]));
    auto prepared = backend().prepare(specs[i], soon());
    ASSERT_TRUE(prepared.ok()) << prepared.status().to_string();
    fill(**prepared, inputs[i]);
    ASSERT_TRUE((*prepared)->submit().ok());  // before the next: a ring has few slots
    pending.push_back(std::move(*prepared));
  }
  for (std::size_t i = 0; i < kTypes.size(); ++i) {
    ASSERT_TRUE(pending[i]->wait().ok());
    double worst = 0;
    EXPECT_EQ(
        count_outside_tolerance(pending[i]->result(0), reference(specs[i], inputs[i])[0], worst),
        0U)
        << i << ", worst error " << worst << " tolerances";
  }
}

TEST_P(BackendConformance, goes_on_after_an_op_was_abandoned) {
  const TensorDesc desc{DType::kF32, Shape{4, dims().hidden}};
  const OpSpec spec = linear_spec({{WeightKind::kQ, 0}}, desc, DType::kF32);
  { ASSERT_TRUE(backend().prepare(spec, soon()).ok()); }  // before submit()
  {
    auto pending = backend().prepare(spec, soon());
    ASSERT_TRUE(pending.ok());
    fill(**pending, list(random_tensor(desc, 1)));
    ASSERT_TRUE((*pending)->submit().ok());
  }  // before wait()
  check(spec, list(random_tensor(desc, 2)));
}

TEST_P(BackendConformance, refuses_specs_that_do_not_fit_the_model) {
  const TensorDesc x{DType::kF32, Shape{4, dims().hidden}};
  const TensorDesc narrow{DType::kF32, Shape{4, dims().hidden - 1}};
  std::vector<OpSpec> bad;
  bad.push_back(linear_spec({{WeightKind::kQ, 0}}, narrow, DType::kF32));
  bad.push_back(linear_spec({{WeightKind::kQ, 2}}, x, DType::kF32));  // no such layer
  bad.push_back(linear_spec({}, x, DType::kF32));
  bad.push_back(
      linear_spec({{WeightKind::kQ, 0}, {WeightKind::kDown, 0}}, x, DType::kF32));  // unlike inputs
  bad.push_back(linear_spec({{WeightKind::kQ, 0}}, x, DType::kI32));
  bad.push_back(lm_head_spec(narrow));
  bad.push_back(embedding_spec(0, DType::kF32));
  bad.push_back(matmul_spec({DType::kF32, Shape{4, 2, 3}}, {DType::kF32, Shape{3, 3, 2}},
                            Transpose::kNone, DType::kF32));
  bad.push_back(matmul_spec({DType::kF32, Shape{4, 2, 3}}, {DType::kF32, Shape{4, 4, 2}},
                            Transpose::kNone, DType::kF32));
  // fp64 is all three of a matmul, or none, and nothing of another op.
  const auto square = [](DType a, DType b, DType result) {
    return matmul_spec({a, Shape{1, 2, 2}}, {b, Shape{1, 2, 2}}, Transpose::kNone, result);
  };
  bad.push_back(square(DType::kF64, DType::kF64, DType::kF32));
  bad.push_back(square(DType::kF32, DType::kF32, DType::kF64));
  bad.push_back(square(DType::kF64, DType::kF32, DType::kF64));
  bad.push_back(embedding_spec(3, DType::kF64));
  bad.push_back(linear_spec({{WeightKind::kQ, 0}}, {DType::kF64, x.shape}, DType::kF32));
  bad.push_back(linear_spec({{WeightKind::kQ, 0}}, x, DType::kF64));
  bad.push_back(lm_head_spec({DType::kF64, x.shape}));
  for (const OpSpec& spec : bad) {
    SCOPED_TRACE(name_of(spec.op));
    auto pending = backend().prepare(spec, soon());
    ASSERT_FALSE(pending.ok());
    EXPECT_EQ(pending.status().code(), StatusCode::kInvalidInput) << pending.status().to_string();
  }
  check(linear_spec({{WeightKind::kQ, 0}}, x, DType::kF32), list(random_tensor(x, 1)));
}

TEST_P(BackendConformance, names_a_token_outside_the_vocabulary_and_goes_on) {
  for (const std::int32_t bad : {-1, 500, std::numeric_limits<std::int32_t>::max(),
                                 std::numeric_limits<std::int32_t>::min()}) {
    const std::array<std::int32_t, 3> ids{1, bad, 2};
    const Outcome outcome = run(embedding_spec(3, DType::kF32), list(token_tensor(ids)));
    ASSERT_FALSE(outcome.status.ok());
    EXPECT_EQ(outcome.status.code(), StatusCode::kInvalidInput);
    EXPECT_NE(outcome.status.message().find(std::to_string(bad)), std::string::npos)
        << outcome.status.to_string();
  }
  const std::array<std::int32_t, 1> good{3};
  check(embedding_spec(1, DType::kF32), list(token_tensor(good)));
}

TEST_P(BackendConformance, carries_infinity_and_nan) {
  Tensor x = activations(2, dims().hidden, DType::kF32);
  x.as<float>()[0] = std::numeric_limits<float>::quiet_NaN();
  const OpSpec spec = linear_spec({{WeightKind::kQ, 0}}, x.desc(), DType::kF32);
  const Outcome outcome = run(spec, list(std::move(x)));
  ASSERT_TRUE(outcome.status.ok());
  EXPECT_TRUE(std::isnan(outcome.results[0].as<float>()[0]));         // row 0 is poisoned
  EXPECT_TRUE(std::isfinite(outcome.results[0].as<float>().back()));  // row 1 is not
}

}  // namespace airlock::testing
