#pragma once

#include <algorithm>
#include <memory>
#include <random>
#include <vector>

#include "base/thread_pool.h"
#include "runtime/exact/pad.h"
#include "tests/cuda/fake_rig.h"
#include "tests/support/int8_copy.h"

namespace airlock::testing {

using Words = std::vector<std::uint32_t>;

/// Ops on words with int8 weights on the fake device, beside what they are exactly.
class CudaWordsTest : public FakeCudaTest {
 protected:
  /// Nothing in it is a multiple of what cuBLAS likes.
  static MemoryModel::Options odd_options() {
    MemoryModel::Options options;
    options.dims = {.hidden = 75,
                    .intermediate = 203,
                    .layers = 2,
                    .heads = 3,
                    .kv_heads = 1,
                    .head_dim = 10,
                    .vocab = 501};
    return options;
  }

  /// On a fresh device, its int8 weights not made yet.
  void load_for(const ModelSource& source, const cuda_fake::Options& options = {}) {
    restart(options);
    source_ = &source;
    auto made = create(&source, DType::kF32);
    ASSERT_TRUE(made.ok()) << made.status().to_string();
    model_on_device_ = std::move(made).value();
  }
  Result<std::string> make_int8(Int8Weights choice, const Int8Progress& progress = {}) {
    return model_on_device_->prepare_int8(*source_, choice, progress);
  }
  /// The same weights without a device.
  static Int8Model reference(const ModelSource& source, Int8Weights choice, Int8Copy& copy) {
    const auto pool = ThreadPool::create(1).value();
    return make_int8_weights(source, choice, *pool, copy.sink()).value();
  }

  const ModelDims& source_dims() const { return source_->config().dims; }
  /// Any words; the first rows are those whose digits are the largest and the smallest.
  static Words words(std::int64_t rows, std::int64_t columns, std::uint64_t seed = 3) {
    std::mt19937_64 random(seed);
    Words made(static_cast<std::size_t>(rows * columns));
    std::ranges::generate(made, [&] { return static_cast<std::uint32_t>(random()); });
    const auto width = static_cast<std::ptrdiff_t>(columns);
    std::fill_n(made.begin(), width, 0x7f7f7f80U);  // four digits of -128
    if (rows > 1) std::fill_n(made.begin() + width, width, 0x7f7f7f7fU);
    return made;
  }
  static TensorView view_of(const Words& values, const Shape& shape) {
    return {reinterpret_cast<const std::byte*>(values.data()), {DType::kU32, shape}};
  }

  struct Outcome {
    Status status;
    std::vector<Words> results;
  };
  Outcome run_words(Compute& compute, const OpSpec& spec, const std::vector<TensorView>& inputs) {
    Outcome outcome;
    OpMemory memory{inputs, {}};
    const std::vector<TensorDesc> descs = op_results(spec, source_dims()).value();
    for (const TensorDesc& desc : descs) outcome.results.emplace_back(desc.elements(), 0xababababU);
    for (std::size_t i = 0; i < descs.size(); ++i) {
      memory.results.push_back({reinterpret_cast<std::byte*>(outcome.results[i].data()), descs[i]});
    }
    auto op = compute.prepare(spec, memory, soon());
    outcome.status = op.status();
    if (op.ok()) outcome.status = (*op)->submit();
    if (outcome.status.ok()) outcome.status = (*op)->wait();
    return outcome;
  }
  Outcome run_int(Compute& compute, const OpSpec& spec, const Words& x) {
    return run_words(compute, spec, {view_of(x, spec.inputs[0].shape)});
  }
  void expect_exact(Compute& compute, const Int8Copy& copy, const OpSpec& spec) {
    const Shape& shape = spec.inputs[0].shape;
    const Words x = words(shape[0], shape[1]);
    const Outcome outcome = run_int(compute, spec, x);
    ASSERT_TRUE(outcome.status.ok()) << outcome.status.to_string();
    const auto want = int_linear_results_of(copy, spec, x, static_cast<std::size_t>(shape[1]));
    ASSERT_EQ(outcome.results.size(), want.size());
    for (std::size_t i = 0; i < want.size(); ++i)
      EXPECT_TRUE(outcome.results[i] == want[i]) << "result " << i;
  }
  OpSpec int_spec(std::vector<WeightId> weights, std::uint8_t planes, std::int64_t rows) const {
    return int_linear_spec(std::move(weights), planes, rows, source_dims());
  }

  const ModelSource* source_ = nullptr;
};

}  // namespace airlock::testing
