#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <bit>
#include <cstring>
#include <limits>
#include <random>
#include <thread>
#include <vector>

#include "runtime/cpu/cpu_model.h"
#include "runtime/exact/pad.h"
#include "tests/support/int8_copy.h"
#include "tests/support/memory_model.h"

namespace airlock {
namespace {

using testing::Int8Copy;
using testing::int_linear_results_of;
using testing::MemoryModel;

using Words = std::vector<std::uint32_t>;

Deadline soon() { return Deadline::after(std::chrono::seconds(60)); }

/// Nothing in it is a multiple of anything.
MemoryModel::Options odd_options() {
  MemoryModel::Options options;
  options.dims = {.hidden = 97,
                  .intermediate = 331,
                  .layers = 2,
                  .heads = 3,
                  .kv_heads = 1,
                  .head_dim = 17,
                  .vocab = 517};
  return options;
}

struct Subject {
  Subject(Int8Weights weights, std::size_t threads, const MemoryModel& source)
      : model(CpuModel::create_for_int8(source, weights, threads, nullptr, copy.sink()).value()),
        compute(model->make_compute()) {}

  Int8Copy copy;
  std::shared_ptr<CpuModel> model;
  std::unique_ptr<Compute> compute;
};

/// Words of which a row needs as many digits as its number says, or all that there can be.
Words words(std::int64_t rows, std::int64_t k, std::uint64_t seed = 1) {
  constexpr auto kEnds = std::to_array<std::int32_t>(
      {-128, 127, -32896, 32639, std::numeric_limits<std::int32_t>::min(),
       std::numeric_limits<std::int32_t>::max(), -1, 0x7f7f7f7f, -129, 128, -32897, 32640});
  std::mt19937_64 random(seed);
  Words values;
  for (std::int64_t row = 0; row < rows; ++row) {
    for (std::int64_t i = 0; i < k; ++i) {
      const auto any = static_cast<std::uint32_t>(random());
      const auto one = static_cast<std::int32_t>(any % 256) - 128;
      const auto two = static_cast<std::int32_t>(any % 65536) - 32896;
      const std::int32_t end = kEnds[any % kEnds.size()];
      const std::array<std::uint32_t, 4> choices = {static_cast<std::uint32_t>(two),
                                                    static_cast<std::uint32_t>(one), any,
                                                    static_cast<std::uint32_t>(end)};
      values.push_back(choices[static_cast<std::size_t>(row % 4)]);
    }
  }
  return values;
}

TensorView view_of(const Words& values, const Shape& shape) {
  return {reinterpret_cast<const std::byte*>(values.data()), {DType::kU32, shape}};
}

struct Outcome {
  Status status;
  std::vector<Words> results;
};

Outcome run(Compute& compute, const OpSpec& spec, const std::vector<TensorView>& inputs,
            Deadline deadline = soon()) {
  Outcome outcome;
  OpMemory memory{inputs, {}};
  const std::vector<TensorDesc> descs = op_results(spec, compute.info().dims).value();
  for (const TensorDesc& desc : descs) outcome.results.emplace_back(desc.elements(), 0xabababab);
  std::size_t i = 0;
  for (const TensorDesc& desc : descs)
    memory.results.push_back({reinterpret_cast<std::byte*>(outcome.results[i++].data()), desc});
  auto op = compute.prepare(spec, memory, deadline);
  outcome.status = op.status();
  if (op.ok()) outcome.status = (*op)->submit();
  if (outcome.status.ok()) outcome.status = (*op)->wait();
  return outcome;
}

Outcome run_int(Compute& compute, const OpSpec& spec, const Words& x) {
  return run(compute, spec, {view_of(x, spec.inputs[0].shape)});
}

void expect_exact(const Subject& subject, const OpSpec& spec, const Words& x) {
  const Outcome outcome = run_int(*subject.compute, spec, x);
  ASSERT_TRUE(outcome.status.ok()) << outcome.status.to_string();
  const auto k = static_cast<std::size_t>(spec.inputs[0].shape[1]);
  const auto want = int_linear_results_of(subject.copy, spec, x, k);
  ASSERT_EQ(outcome.results.size(), want.size());
  for (std::size_t i = 0; i < want.size(); ++i)
    EXPECT_TRUE(outcome.results[i] == want[i]) << "result " << i;
}

TEST(IntLinear, is_exact_for_every_number_of_rows_and_threads) {
  const MemoryModel source(odd_options());
  for (const std::size_t threads : {1, 2, 3}) {
    const Subject subject(Int8Weights::kW16, threads, source);
    const ModelDims& dims = source.config().dims;
    for (std::int64_t rows = 1; rows <= 40; ++rows) {
      SCOPED_TRACE(rows);
      expect_exact(subject, int_linear_spec({{WeightKind::kQ, 1}}, 1, rows, dims),
                   words(rows, dims.hidden));
    }
    for (const std::int64_t rows : {1, 3, 67, 129, 300}) {
      SCOPED_TRACE(rows);
      const auto check = [&](std::vector<WeightId> weights, std::uint8_t planes, std::int64_t k) {
        expect_exact(subject, int_linear_spec(std::move(weights), planes, rows, dims),
                     words(rows, k));
      };
      check({{WeightKind::kQ, 0}, {WeightKind::kK, 0}, {WeightKind::kV, 0}}, 2, dims.hidden);
      check({{WeightKind::kO, 1}}, 2, dims.heads * dims.head_dim);
      check({{WeightKind::kUp, 0}, {WeightKind::kGate, 0}}, 2, dims.hidden);
      check({{WeightKind::kDown, 1}}, 1, dims.intermediate);
      check({}, 2, dims.hidden);
    }
  }
}

TEST(IntLinear, takes_rows_of_one_kind_in_any_number) {
  const MemoryModel source(odd_options());
  const Subject subject(Int8Weights::kW8, 1, source);
  const ModelDims& dims = source.config().dims;
  for (const std::uint32_t value : {0U, 127U, ~0U, 32639U, 0x80000000U, 0x7fffffffU}) {
    for (const std::int64_t rows : {1, 63, 64, 65, 130, 257}) {
      SCOPED_TRACE(rows);
      expect_exact(subject, int_linear_spec({{WeightKind::kDown, 0}}, 1, rows, dims),
                   Words(static_cast<std::size_t>(rows * dims.intermediate), value));
    }
  }
}

TEST(IntLinear, is_exact_over_many_blocks_of_rows) {
  MemoryModel::Options options = odd_options();
  options.dims.intermediate = 65536;
  options.dims.hidden = 9;
  options.dims.vocab = 11;
  options.dims.layers = 1;
  const MemoryModel source(options);
  const Subject subject(Int8Weights::kW8, 2, source);
  for (const std::int64_t rows : {31, 32, 33, 70}) {
    SCOPED_TRACE(rows);
    expect_exact(subject, int_linear_spec({{WeightKind::kDown, 0}}, 1, rows, options.dims),
                 words(rows, options.dims.intermediate));
  }
}

TEST(IntLinear, multiplies_the_pads_that_key_and_places_give) {
  const MemoryModel source(odd_options());
  const Subject subject(Int8Weights::kW16, 2, source);
  const ModelDims& dims = source.config().dims;
  PadKey key{};
  for (std::size_t i = 0; i < key.size(); ++i) key[i] = static_cast<std::byte>(i * 17 + 3);
  for (const std::int64_t rows : {1, 5, 70}) {
    Words places;
    for (std::int64_t row = 0; row < rows; ++row) {
      places.push_back(static_cast<std::uint32_t>(1000 - row));
      places.push_back(static_cast<std::uint32_t>(row * 77));
    }
    for (const OpSpec& spec :
         {pad_linear_spec({{WeightKind::kGate, 1}, {WeightKind::kUp, 1}}, 2, rows),
          pad_linear_spec({}, 1, rows)}) {
      SCOPED_TRACE(rows);
      WordStream stream = WordStream::create(key).value();
      Words pads(static_cast<std::size_t>(rows * dims.hidden));
      for (std::size_t row = 0; row < static_cast<std::size_t>(rows); ++row) {
        const auto k = static_cast<std::size_t>(dims.hidden);
        ASSERT_TRUE(
            stream
                .words({places[2 * row], layer_of(spec), linear_of(spec), places[2 * row + 1]},
                       std::span(pads).subspan(row * k, k))
                .ok());
      }
      const Outcome outcome =
          run(*subject.compute, spec,
              {{key.data(), {DType::kU8, Shape{kPadKeyBytes}}}, view_of(places, {rows, 2})});
      ASSERT_TRUE(outcome.status.ok()) << outcome.status.to_string();
      EXPECT_TRUE(outcome.results == int_linear_results_of(subject.copy, spec, pads,
                                                           static_cast<std::size_t>(dims.hidden)));
    }
  }
}

// A word that changes while the op runs is one value or the other in all of a row's sums, never one
// for the judge of its digits and another for the product.
TEST(IntLinear, reads_each_word_once) {
  const MemoryModel source(odd_options());
  const Subject subject(Int8Weights::kW16, 1, source);
  const ModelDims& dims = source.config().dims;
  const OpSpec spec = int_linear_spec({{WeightKind::kQ, 0}, {WeightKind::kV, 0}}, 2, 1, dims);
  const auto k = static_cast<std::size_t>(dims.hidden);
  std::array<Words, 2> versions = {Words(k, 3), Words(k, 3)};
  versions[1][k / 2] = 0x80000000U;
  std::array<std::vector<Words>, 2> want;
  for (std::size_t i = 0; i < 2; ++i)
    want[i] = int_linear_results_of(subject.copy, spec, versions[i], k);
  Words x = versions[0];
  std::atomic<bool> stop{false};
  std::thread peer([&] {
    std::atomic_ref<std::uint32_t> word(x[k / 2]);
    while (!stop.load()) {
      word.store(0x80000000U, std::memory_order_relaxed);
      word.store(3, std::memory_order_relaxed);
    }
  });
  for (int round = 0; round < 300; ++round) {
    const Outcome outcome = run_int(*subject.compute, spec, x);
    EXPECT_TRUE(outcome.status.ok());
    EXPECT_TRUE(outcome.results == want[0] || outcome.results == want[1]) << round;
  }
  stop.store(true);
  peer.join();
}

TEST(IntLinear, needs_int8_weights_and_their_planes) {
  const MemoryModel source(odd_options());
  const ModelDims& dims = source.config().dims;
  const auto model = CpuModel::create(source, {}).value();
  const auto compute = model->make_compute();
  const OpSpec one = int_linear_spec({{WeightKind::kQ, 0}}, 1, 2, dims);
  const OpSpec two = int_linear_spec({{WeightKind::kQ, 0}}, 2, 2, dims);
  const Words x = words(2, dims.hidden);
  EXPECT_EQ(run_int(*compute, one, x).status.code(), StatusCode::kInvalidInput);
  EXPECT_EQ(model->int8(), nullptr);

  const auto w8 = model->prepare_int8(source, Int8Weights::kW8, {});
  ASSERT_TRUE(w8.ok());
  ASSERT_NE(model->int8(), nullptr);
  EXPECT_EQ(model->int8()->digest, *w8);
  const Outcome before = run_int(*compute, one, x);
  ASSERT_TRUE(before.status.ok()) << before.status.to_string();
  EXPECT_EQ(run_int(*compute, two, x).status.code(), StatusCode::kInvalidInput);

  // A later ask adds what there is not yet, and changes nothing of what is there.
  const auto w16 = model->prepare_int8(source, Int8Weights::kW16, {});
  ASSERT_TRUE(w16.ok());
  EXPECT_NE(*w16, *w8);
  const Outcome both = run_int(*compute, two, x);
  ASSERT_TRUE(both.status.ok()) << both.status.to_string();
  EXPECT_EQ(both.results[0], before.results[0]);
  EXPECT_EQ(run_int(*compute, one, x).results, before.results);
  EXPECT_EQ(model->prepare_int8(source, Int8Weights::kW8, {}).value(), *w8);
  EXPECT_EQ(model->prepare_int8(source, Int8Weights::kNone, {}).status().code(),
            StatusCode::kInvalidInput);
}

TEST(IntLinear, is_served_while_more_planes_are_made) {
  const MemoryModel source(odd_options());
  const ModelDims& dims = source.config().dims;
  const auto model = CpuModel::create(source, {}).value();
  ASSERT_TRUE(model->prepare_int8(source, Int8Weights::kW8, {}).ok());
  const auto compute = model->make_compute();
  const OpSpec spec = int_linear_spec({{WeightKind::kDown, 0}}, 1, 5, dims);
  const Words x = words(5, dims.intermediate);
  const Outcome first = run_int(*compute, spec, x);
  ASSERT_TRUE(first.status.ok());
  std::atomic<bool> made{false};
  std::thread asker([&] {
    EXPECT_TRUE(model->prepare_int8(source, Int8Weights::kW16, {}).ok());
    made.store(true);
  });
  do {
    EXPECT_EQ(run_int(*compute, spec, x).results, first.results);
  } while (!made.load());
  asker.join();
}

TEST(IntLinear, alone_has_no_float_weights) {
  const MemoryModel source(odd_options());
  const Subject subject(Int8Weights::kW8, 1, source);
  EXPECT_EQ(subject.compute->info().digest, source.digest().value());
  const std::array<std::int32_t, 1> ids{3};
  const TensorView view{reinterpret_cast<const std::byte*>(ids.data()), {DType::kI32, Shape{1}}};
  EXPECT_EQ(run(*subject.compute, embedding_spec(1, DType::kF32), {view}).status.code(),
            StatusCode::kInvalidInput);
}

TEST(IntLinear, names_the_tensor_that_cannot_be_read) {
  MemoryModel::Options options = odd_options();
  options.broken_tensor = "model.layers.1.mlp.up_proj.weight";
  const MemoryModel source(options);
  const auto made = CpuModel::create_for_int8(source, Int8Weights::kW8, 1, nullptr, {});
  ASSERT_FALSE(made.ok());
  EXPECT_EQ(made.status().code(), StatusCode::kInvalidInput);
}

}  // namespace
}  // namespace airlock
