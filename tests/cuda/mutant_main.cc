// Runs ops on the fake device in ways that show a missing wait, a wrong layout or a lease that is
// dropped too early. Prints "caught: WHAT" for each fault and exits 1 where there is one.
#include <cuda_runtime_api.h>

#include <cstdio>
#include <cstring>
#include <functional>
#include <limits>

#include "base/page_buffer.h"
#include "base/thread_pool.h"
#include "gpu_server/cuda_module_abi.h"
#include "runtime/exact/pad.h"
#include "tests/cuda_fake/fake_device.h"
#include "tests/support/int8_copy.h"
#include "tests/support/memory_model.h"
#include "tests/support/reference_ops.h"

extern "C" const airlock::CudaModule* airlock_cuda_module();

namespace airlock::testing {
namespace {

using cuda_fake::Mode;
using enum WeightKind;
using Words = std::vector<std::uint32_t>;

int g_faults = 0;

void caught(const std::string& what) {
  ++g_faults;
  std::printf("caught: %s\n", what.c_str());
}

/// A session with a ring of one MiB on a fresh device.
class Scenario {
 public:
  explicit Scenario(Mode mode) : ring_(PageBuffer::allocate(1 << 20).value()) {
    for (const std::string& misuse : cuda_fake::reset({.mode = mode, .report_pageable = true}))
      caught(misuse);
    auto model = airlock_cuda_module()->create(&model_, {});
    if (!model.ok()) {
      caught("create: " + model.status().to_string());
      return;
    }
    auto compute = model.value()->make_compute(std::vector{std::span(ring_.data(), ring_.bytes())});
    if (!compute.ok()) {
      caught("make_compute: " + compute.status().to_string());
      return;
    }
    compute_ = std::move(compute).value();
  }
  ~Scenario() {
    compute_.reset();
    for (const std::string& misuse : cuda_fake::reset()) caught(misuse);
  }
  Scenario(const Scenario&) = delete;
  Scenario& operator=(const Scenario&) = delete;

  explicit operator bool() const { return compute_ != nullptr; }
  const ModelDims& dims() const { return model_.config().dims; }

  /// Operands in the ring from 0 on, results behind them.
  std::unique_ptr<Computation> submit(const OpSpec& spec) {
    inputs_.clear();
    results_.clear();
    std::size_t offset = 0;
    const auto place = [&](const TensorDesc& desc) {
      MutableTensorView view{ring_.data() + offset, desc};
      offset += (desc.bytes() + 255) / 256 * 256;
      return view;
    };
    for (const TensorDesc& desc : spec.inputs) {
      const MutableTensorView view = place(desc);
      if (desc.dtype == DType::kI32) {
        for (std::size_t i = 0; i < desc.elements(); ++i)
          view.as<std::int32_t>()[i] = static_cast<std::int32_t>(3 * i + 1);
      } else {
        const Tensor values = random_tensor(desc, ++seed_);
        std::memcpy(view.data, values.view().data, desc.bytes());
      }
      inputs_.push_back(view);
    }
    want_ = reference_op(model_, DType::kF32, spec, inputs_);
    const auto descs = op_results(spec, dims());
    for (const TensorDesc& desc : *descs) results_.push_back(place(desc));
    auto op =
        compute_->prepare(spec, {inputs_, results_}, Deadline::after(std::chrono::seconds(20)));
    if (!op.ok()) return nullptr;
    if (const Status status = (*op)->submit(); !status.ok()) return nullptr;
    return std::move(op).value();
  }
  void check(const OpSpec& spec) {
    const std::string name(name_of(spec.op));
    const auto op = submit(spec);
    if (!op) return caught(name + " was not taken");
    if (const Status status = op->wait(); !status.ok())
      return caught(name + ": " + status.to_string());
    expect_right(name);
  }
  void expect_right(const std::string& name) {
    for (std::size_t i = 0; i < results_.size(); ++i) {
      double worst = 0;
      if (count_outside_tolerance(results_[i], want_[i], worst) != 0)
        caught(name + ": a result is wrong");
    }
  }
  void overwrite_ring() { std::memset(ring_.data(), 0x55, ring_.bytes()); }
  std::byte* ring() { return ring_.data(); }

 private:
  MemoryModel model_;
  PageBuffer ring_;
  std::unique_ptr<Compute> compute_;
  std::uint64_t seed_ = 10;
  std::vector<TensorView> inputs_;
  std::vector<MutableTensorView> results_;
  std::vector<ReferenceResult> want_;
};

void right_results(Mode mode) {
  Scenario scenario(mode);
  if (!scenario) return;
  const TensorDesc x{DType::kF32, Shape{3, scenario.dims().hidden}};
  scenario.check(linear_spec({{kQ, 0}, {kK, 0}, {kV, 0}}, x, DType::kF32));
  scenario.check(linear_spec(
      {{kO, 0}}, {DType::kF32, Shape{3, weight_shape(scenario.dims(), kO)[1]}}, DType::kF32));
  scenario.check(embedding_spec(4, DType::kF32));
  scenario.check(lm_head_spec(x));
  for (const Transpose transpose : {Transpose::kNone, Transpose::kA, Transpose::kB}) {
    const Shape a = transpose == Transpose::kA ? Shape{6, 5, 4} : Shape{6, 4, 5};
    const Shape b = transpose == Transpose::kB ? Shape{2, 3, 5} : Shape{2, 5, 3};
    for (const DType type : {DType::kF32, DType::kF64})
      scenario.check(matmul_spec({type, a}, {type, b}, transpose, type));
  }
}

void abandoned_op() {
  Scenario scenario(Mode::kLazy);
  if (!scenario) return;
  const TensorDesc x{DType::kF32, Shape{3, scenario.dims().hidden}};
  const OpSpec spec = linear_spec({{kQ, 0}}, x, DType::kF32);
  (void)scenario.submit(spec);
  scenario.overwrite_ring();  // the slots have a new owner
  scenario.check(spec);
}

void failed_op() {
  Scenario scenario(Mode::kLazy);
  if (!scenario) return;
  const TensorDesc x{DType::kF32, Shape{3, scenario.dims().hidden}};
  const OpSpec spec = linear_spec({{kQ, 0}}, x, DType::kF32);
  cuda_fake::fail_function("cublasGemmEx", cuda_fake::call_count("cublasGemmEx") + 1,
                           cudaErrorMemoryAllocation);
  if (const auto op = scenario.submit(spec); op && op->wait().ok()) caught("a failure was lost");
  scenario.overwrite_ring();
  scenario.check(spec);
}

void token_ids_that_change() {
  Scenario scenario(Mode::kLazy);
  if (!scenario) return;
  const auto op = scenario.submit(embedding_spec(4, DType::kF32));
  if (!op) return caught("embedding was not taken");
  const std::int32_t far = std::numeric_limits<std::int32_t>::max() / 1024;
  std::memcpy(scenario.ring(), &far, sizeof(far));  // the peer, after the check
  const Status status = op->wait();
  const std::vector<std::string> misuses = cuda_fake::take_misuses();
  if (!status.ok() || !misuses.empty()) return caught("token ids were read twice");
  scenario.expect_right("embedding");
}

/// Ops on words by themselves: what is right is not the reference's to say, but exact.
class WordsScenario {
 public:
  explicit WordsScenario(Mode mode) {
    for (const std::string& misuse : cuda_fake::reset({.mode = mode})) caught(misuse);
    auto model = airlock_cuda_module()->create(&source_, {});
    if (!model.ok()) {
      caught("create: " + model.status().to_string());
      return;
    }
    const auto pool = ThreadPool::create(1).value();
    (void)make_int8_weights(source_, Int8Weights::kW16, *pool, copy_.sink());
    const auto digest = model.value()->prepare_int8(source_, Int8Weights::kW16, {});
    if (!digest.ok()) {
      caught("prepare_int8: " + digest.status().to_string());
      return;
    }
    compute_ = model.value()->make_compute({}).value();
  }
  ~WordsScenario() {
    compute_.reset();
    for (const std::string& misuse : cuda_fake::reset()) caught(misuse);
  }
  WordsScenario(const WordsScenario&) = delete;
  WordsScenario& operator=(const WordsScenario&) = delete;

  void check(const OpSpec& spec, const std::vector<std::span<const std::byte>>& inputs,
             const Words& x) {
    if (!compute_) return;
    OpMemory memory;
    for (std::size_t i = 0; i < inputs.size(); ++i)
      memory.inputs.push_back({inputs[i].data(), spec.inputs[i]});
    std::vector<Words> results;
    const auto descs = op_results(spec, dims()).value();
    for (const TensorDesc& desc : descs) results.emplace_back(desc.elements());
    for (std::size_t i = 0; i < descs.size(); ++i)
      memory.results.push_back({reinterpret_cast<std::byte*>(results[i].data()), descs[i]});
    const std::string name(name_of(spec.op));
    auto op = compute_->prepare(spec, std::move(memory), Deadline::after(std::chrono::seconds(20)));
    Status status = op.status();
    if (status.ok()) status = (*op)->submit();
    if (status.ok()) status = (*op)->wait();
    if (!status.ok()) return caught(name + ": " + status.to_string());
    const std::size_t columns = x.size() / static_cast<std::size_t>(descs[0].shape[0]);
    if (results != int_linear_results_of(copy_, spec, x, columns))
      caught(name + ": a result is wrong");
  }
  const ModelDims& dims() const { return source_.config().dims; }

 private:
  MemoryModel source_;
  Int8Copy copy_;
  std::unique_ptr<Compute> compute_;
};

void right_words(Mode mode) {
  WordsScenario scenario(mode);
  const OpSpec spec = int_linear_spec({{kQ, 0}, {kK, 0}, {kV, 0}}, 2, 3, scenario.dims());
  Words x(spec.inputs[0].elements());
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<std::uint32_t>(i) * 0x9e3779b9U;
  scenario.check(spec, {std::as_bytes(std::span(x))}, x);
  const PadKey key{std::byte{3}};
  const Words places{1, 2, 3, 4};
  const auto columns = static_cast<std::size_t>(scenario.dims().hidden);
  Words pads(2 * columns);
  WordStream stream = WordStream::create(key).value();
  for (std::uint32_t row = 0; row < 2; ++row) {
    (void)stream.words({1 + 2 * row, 0, Linear::kLmHead, 2 + 2 * row},
                       std::span(pads).subspan(row * columns, columns));
  }
  scenario.check(pad_linear_spec({}, 1, 2), {key, std::as_bytes(std::span(places))}, pads);
}

}  // namespace
}  // namespace airlock::testing

int main() {
  using namespace airlock::testing;
  using airlock::cuda_fake::Mode;
  for (const Mode mode : {Mode::kLazy, Mode::kEager}) right_results(mode);
  for (const Mode mode : {Mode::kLazy, Mode::kEager}) right_words(mode);
  abandoned_op();
  failed_op();
  token_ids_that_change();
  std::printf("%d faults\n", g_faults);
  return g_faults == 0 ? 0 : 1;
}
