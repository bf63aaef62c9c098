#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "base/page_buffer.h"
#include "gpu_server/cuda_module_abi.h"
#include "tests/cuda_fake/fake_device.h"
#include "tests/support/memory_model.h"
#include "tests/support/reference_ops.h"

extern "C" const airlock::CudaModule* airlock_cuda_module();

namespace airlock::testing {

/// Tests of the CUDA module's host sources on the fake device. Each starts with a fresh fake and
/// fails where the fake has seen a misuse or a leak, unless it took them.
class FakeCudaTest : public ::testing::Test {
 protected:
  FakeCudaTest() { restart({}); }
  ~FakeCudaTest() override { restart({}); }

  /// A fresh device; nothing may be left of the old one.
  void restart(const cuda_fake::Options& options) {
    // What is lost is left as it is: nothing calls CUDA any more, not even to free.
    const bool lost = model_on_device_ && !model_on_device_->health().ok();
    compute_.reset();
    model_on_device_.reset();
    if (lost) {
      for (const std::string& misuse : cuda_fake::take_misuses()) ADD_FAILURE() << misuse;
    }
    for (const std::string& misuse : cuda_fake::reset(options)) {
      if (!lost) ADD_FAILURE() << misuse;
    }
  }
  static constexpr const ModelSource* kNoModel = nullptr;
  static Deadline soon() { return Deadline::after(std::chrono::seconds(60)); }
  Result<std::shared_ptr<CudaModel>> create(DType dtype = DType::kF32) {
    return create(&model_, dtype);
  }
  Result<std::shared_ptr<CudaModel>> create(const ModelSource* model, DType dtype) {
    CudaOptions options;
    options.dtype = dtype;
    options.warn = [this](const std::string& text) { warnings_.push_back(text); };
    return airlock_cuda_module()->create(model, options);
  }
  void load(DType dtype = DType::kF32) {
    auto made = create(dtype);
    ASSERT_TRUE(made.ok()) << made.status().to_string();
    model_on_device_ = std::move(made).value();
  }
  /// `segments` as a session's rings.
  void open(const std::vector<std::span<std::byte>>& segments = {}) {
    if (!model_on_device_) load();
    auto made = model_on_device_->make_compute(segments);
    ASSERT_TRUE(made.ok()) << made.status().to_string();
    compute_ = std::move(made).value();
  }
  const ModelDims& dims() const { return model_.config().dims; }

  /// Its results are compared with the reference.
  Status run_op(Compute& compute, const OpSpec& spec, const std::vector<Tensor>& inputs,
                const std::vector<MutableTensorView>& results) {
    std::vector<TensorView> views;
    for (const Tensor& input : inputs) views.push_back(input.view());
    return run_op(compute, spec, views, results);
  }
  Status run_op(Compute& compute, const OpSpec& spec, const std::vector<TensorView>& inputs,
                const std::vector<MutableTensorView>& results) {
    ASSIGN_OR_RETURN(auto op, compute.prepare(spec, {inputs, results}, soon()));
    RETURN_IF_ERROR(op->submit());
    RETURN_IF_ERROR(op->wait());
    times_ = op->times();
    expect_right(compute, spec, inputs, results);
    return {};
  }
  void expect_right(Compute& compute, const OpSpec& spec, const std::vector<TensorView>& inputs,
                    const std::vector<MutableTensorView>& results) {
    const auto want = reference_op(model_, compute.info().dtype, spec, inputs);
    for (std::size_t i = 0; i < results.size(); ++i) {
      double worst = 0;
      EXPECT_EQ(count_outside_tolerance(results[i], want[i], worst), 0U)
          << name_of(spec.op) << " result " << i << ", worst error " << worst << " tolerances";
    }
  }
  /// Memory for an op's results.
  std::vector<Tensor> results_of(const OpSpec& spec) const {
    std::vector<Tensor> tensors;
    const auto descs = op_results(spec, dims());
    CHECK(descs.ok());
    for (const TensorDesc& desc : *descs) tensors.emplace_back(desc);
    return tensors;
  }
  static std::vector<MutableTensorView> views_of(std::vector<Tensor>& tensors) {
    std::vector<MutableTensorView> views;
    for (Tensor& tensor : tensors) views.push_back(tensor.mutable_view());
    return views;
  }
  static std::vector<Tensor> inputs_of(const OpSpec& spec, std::uint64_t seed = 5) {
    std::vector<Tensor> tensors;
    for (const TensorDesc& desc : spec.inputs) {
      if (desc.dtype == DType::kI32) {
        Tensor ids(desc);
        for (std::size_t i = 0; i < desc.elements(); ++i)
          ids.as<std::int32_t>()[i] = static_cast<std::int32_t>((i * 37 + seed) % 500);
        tensors.push_back(std::move(ids));
      } else {
        tensors.push_back(random_tensor(desc, seed++));
      }
    }
    return tensors;
  }
  Status run_op(Compute& compute, const OpSpec& spec) {
    std::vector<Tensor> results = results_of(spec);
    return run_op(compute, spec, inputs_of(spec), views_of(results));
  }
  /// An op's tensors, the inputs filled; for ops whose results nobody looks at.
  struct OpTensors {
    std::vector<Tensor> inputs;
    std::vector<Tensor> results;
    OpMemory memory() {
      OpMemory memory{{}, views_of(results)};
      for (const Tensor& input : inputs) memory.inputs.push_back(input.view());
      return memory;
    }
  };
  OpTensors tensors_of(const OpSpec& spec) const { return {inputs_of(spec), results_of(spec)}; }
  OpSpec linear(std::int64_t rows, std::vector<WeightId> weights, DType wire = DType::kF32) const {
    return linear_spec(std::move(weights), {wire, Shape{rows, dims().hidden}}, wire);
  }
  /// a [heads, 4, 5] times b [groups, 5, 7].
  static OpSpec fp64_spec(std::int64_t heads, std::int64_t groups, Transpose transpose) {
    constexpr DType kType = DType::kF64;
    const Shape a = transpose == Transpose::kA ? Shape{heads, 5, 4} : Shape{heads, 4, 5};
    const Shape b = transpose == Transpose::kB ? Shape{groups, 7, 5} : Shape{groups, 5, 7};
    return matmul_spec({kType, a}, {kType, b}, transpose, kType);
  }
  /// One op of each kind, and linears of each form.
  std::vector<OpSpec> one_of_each(DType wire) const {
    using enum WeightKind;
    return {embedding_spec(5, wire),
            linear(4, {{kQ, 0}, {kK, 0}, {kV, 0}}, wire),
            linear(3, {{kUp, 1}, {kQ, 0}}, wire),
            matmul_spec({wire, Shape{6, 4, 18}}, {wire, Shape{2, 7, 18}}, Transpose::kB, wire),
            matmul_spec({wire, Shape{6, 5, 4}}, {wire, Shape{2, 5, 7}}, Transpose::kA, wire),
            fp64_spec(6, 2, Transpose::kA),
            lm_head_spec({wire, Shape{2, dims().hidden}})};
  }

  MemoryModel model_;
  std::shared_ptr<CudaModel> model_on_device_;
  std::unique_ptr<Compute> compute_;
  std::vector<std::string> warnings_;
  OpTimes times_;
};

/// Pages as a ring segment has them.
class Segment {
 public:
  explicit Segment(std::size_t bytes) : pages_(PageBuffer::allocate(bytes).value()) {}
  std::span<std::byte> bytes() { return {pages_.data(), pages_.bytes()}; }
  /// A tensor at `offset`, with `from`'s values where given.
  MutableTensorView place(std::size_t offset, const TensorDesc& desc,
                          const Tensor* from = nullptr) {
    if (from != nullptr) std::memcpy(pages_.data() + offset, from->view().data, desc.bytes());
    return {pages_.data() + offset, desc};
  }

 private:
  PageBuffer pages_;
};

}  // namespace airlock::testing
