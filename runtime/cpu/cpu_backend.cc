#include "runtime/cpu/cpu_backend.h"

#include <fmt/format.h>

#include <utility>

#include "base/check.h"
#include "runtime/cpu/cpu_model.h"
#include "runtime/cpu/gemm_cache.h"

namespace airlock {

namespace {

/// Memory that the op reads or writes: the caller's, or `owned`'s.
struct OpMemory {
  std::vector<TensorView> inputs;
  std::vector<MutableTensorView> results;
};

/// One session's view of the model: its products and its scratch memory. One thread.
class CpuBackend : public Backend {
 public:
  explicit CpuBackend(std::shared_ptr<CpuShared> shared)
      : shared_(std::move(shared)),
        stream_(shared_->engine),
        cache_(shared_->engine, numerics().held) {}

  const BackendInfo& info() const override { return shared_->info; }
  Result<std::unique_ptr<Pending>> prepare(const OpSpec& spec, const Operands& operands,
                                           Deadline deadline) override;

  ScratchPool& scratch() { return scratch_; }
  /// Waits for the threads, then computes. Never throws.
  Status run(const OpSpec& spec, const OpMemory& memory, Deadline deadline, OpTiming& timing);

 private:
  const Numerics& numerics() const { return shared_->weights.numerics; }
  Status compute(const OpSpec& spec, const OpMemory& memory);
  Status embed(const OpMemory& memory);
  Status linear(const OpSpec& spec, const OpMemory& memory);
  Status matmul(const OpSpec& spec, const OpMemory& memory);
  Status lm_head(const OpMemory& memory);
  /// Where the values of `view` lie, rounded and held; in `buffer` unless they can be taken as they
  /// are.
  Result<std::byte*> operand(TensorView view, ScratchPool::Buffer& buffer);
  Status product(GemmKey key, const HeldWeight* weight, std::byte* a, std::byte* b,
                 MutableTensorView result);

  std::shared_ptr<CpuShared> shared_;  // keeps the weights alive
  ScratchPool scratch_;
  dnnl::stream stream_;
  GemmCache cache_;
};

class CpuPending : public Pending {
 public:
  CpuPending(CpuBackend& backend, const OpSpec& spec, Deadline deadline)
      : backend_(backend), spec_(spec), deadline_(deadline) {}

  Status set_inputs(std::span<const TensorView> given);
  Status set_results(std::span<const MutableTensorView> given,
                     const std::vector<TensorDesc>& expected);

  MutableTensorView input(std::size_t index) override {
    CHECK(index < own_inputs_.size() && !submitted_);
    return own_inputs_[index];
  }
  Status submit() override {
    CHECK(!submitted_);
    submitted_ = true;
    outcome_ = backend_.run(spec_, memory_, deadline_, timing_);
    return outcome_;
  }
  bool done() override { return submitted_; }
  Status wait() override {
    CHECK(submitted_);
    return outcome_;
  }
  TensorView result(std::size_t index) const override {
    CHECK(submitted_ && outcome_.ok() && index < memory_.results.size());
    return memory_.results[index];
  }
  OpTiming timing() const override { return timing_; }

 private:
  Result<MutableTensorView> own(const TensorDesc& desc) {
    ASSIGN_OR_RETURN(ScratchPool::Buffer buffer, backend_.scratch().take(desc.bytes()));
    owned_.push_back(std::move(buffer));
    return MutableTensorView{owned_.back().data(), desc};
  }

  CpuBackend& backend_;
  OpSpec spec_;
  Deadline deadline_;
  OpMemory memory_;
  std::vector<MutableTensorView> own_inputs_;  // empty where the caller gave inputs
  std::vector<ScratchPool::Buffer> owned_;
  Status outcome_;
  OpTiming timing_;
  bool submitted_ = false;
};

Status CpuPending::set_inputs(std::span<const TensorView> given) {
  if (given.empty()) {
    for (const TensorDesc& desc : spec_.inputs) {
      ASSIGN_OR_RETURN(const MutableTensorView view, own(desc));
      own_inputs_.push_back(view);
      memory_.inputs.push_back(view);
    }
    return {};
  }
  memory_.inputs.assign(given.begin(), given.end());
  return {};
}

Status CpuPending::set_results(std::span<const MutableTensorView> given,
                               const std::vector<TensorDesc>& expected) {
  if (given.empty()) {
    for (const TensorDesc& desc : expected) {
      ASSIGN_OR_RETURN(const MutableTensorView view, own(desc));
      memory_.results.push_back(view);
    }
    return {};
  }
  memory_.results.assign(given.begin(), given.end());
  return {};
}

Result<std::unique_ptr<Pending>> CpuBackend::prepare(const OpSpec& spec, const Operands& operands,
                                                     Deadline deadline) {
  ASSIGN_OR_RETURN(const std::vector<TensorDesc> expected, op_results(spec, info().dims));
  RETURN_IF_ERROR(check_operands(operands, spec, expected));
  auto pending = std::make_unique<CpuPending>(*this, spec, deadline);
  RETURN_IF_ERROR(pending->set_inputs(operands.inputs));
  RETURN_IF_ERROR(pending->set_results(operands.results, expected));
  return std::unique_ptr<Pending>(std::move(pending));
}

Status CpuBackend::run(const OpSpec& spec, const OpMemory& memory, Deadline deadline,
                       OpTiming& timing) {
  const std::uint64_t asked_ns = now_ns();
  ASSIGN_OR_RETURN(const FairGate::Turn turn, shared_->gate.enter(deadline));
  const std::uint64_t started_ns = now_ns();
  timing.queue_ns = started_ns - asked_ns;
  const Status status = onednn::guarded([&] {
    const onednn::ThreadCount threads(info().threads);
    return compute(spec, memory);
  });
  timing.server_ns = now_ns() - started_ns;
  return status;
}

Status CpuBackend::compute(const OpSpec& spec, const OpMemory& memory) {
  switch (spec.op) {
    case Op::kEmbedding:
      return embed(memory);
    case Op::kBatchLinear:
      return linear(spec, memory);
    case Op::kMatmul:
      return matmul(spec, memory);
    case Op::kLmHead:
      return lm_head(memory);
    case Op::kPing:
      return {};
    case Op::kInit:
    case Op::kStats:
      break;  // op_results() refused them
  }
  return {StatusCode::kInvalidInput,
          fmt::format("{} is not computed by a backend", name_of(spec.op))};
}

Status CpuBackend::embed(const OpMemory& memory) {
  ASSIGN_OR_RETURN(const std::vector<std::int32_t> ids,
                   read_token_ids(memory.inputs[0], info().dims.vocab));
  gather_rows(shared_->weights.table, ids, memory.results[0], shared_->pool);
  return {};
}

Status CpuBackend::linear(const OpSpec& spec, const OpMemory& memory) {
  ScratchPool::Buffer buffer;
  ASSIGN_OR_RETURN(std::byte * x, operand(memory.inputs[0], buffer));
  for (std::size_t i = 0; i < spec.weights.size(); ++i) {
    const HeldWeight& weight = shared_->weights.weight(spec.weights[i]);
    GemmKey key;
    key.m = spec.inputs[0].shape[0];
    RETURN_IF_ERROR(product(key, &weight, x, weight.data, memory.results[i]));
  }
  return {};
}

Status CpuBackend::lm_head(const OpMemory& memory) {
  ScratchPool::Buffer buffer;
  ASSIGN_OR_RETURN(std::byte * x, operand(memory.inputs[0], buffer));
  const HeldWeight& weight = shared_->weights.lm_head;
  GemmKey key;
  key.m = memory.inputs[0].desc.shape[0];
  return product(key, &weight, x, weight.data, memory.results[0]);
}

Status CpuBackend::matmul(const OpSpec& spec, const OpMemory& memory) {
  const Shape& a_shape = spec.inputs[0].shape;
  const Shape& b_shape = spec.inputs[1].shape;
  ScratchPool::Buffer a_buffer;
  ScratchPool::Buffer b_buffer;
  ASSIGN_OR_RETURN(std::byte * a, operand(memory.inputs[0], a_buffer));
  ASSIGN_OR_RETURN(std::byte * b, operand(memory.inputs[1], b_buffer));
  GemmKey key;
  key.transpose = spec.transpose;
  key.groups = b_shape[0];
  key.heads_per_group = a_shape[0] / b_shape[0];
  key.m = a_shape[spec.transpose == Transpose::kA ? 2 : 1];
  key.k = a_shape[spec.transpose == Transpose::kA ? 1 : 2];
  key.n = b_shape[spec.transpose == Transpose::kB ? 1 : 2];
  if (spec.transpose != Transpose::kA) {
    // The heads of a group lie one behind the other and meet the same b: they are the rows of one
    // matrix.
    key.m *= std::exchange(key.heads_per_group, 1);
  }
  return product(key, nullptr, a, b, memory.results[0]);
}

Result<std::byte*> CpuBackend::operand(TensorView view, ScratchPool::Buffer& buffer) {
  // oneDNN's handles are not const; inputs are never written through them.
  if (numerics().takes(view.desc.dtype)) return const_cast<std::byte*>(view.data);
  ASSIGN_OR_RETURN(buffer, scratch_.take(view.desc.elements() * dtype_bytes(numerics().held)));
  hold(numerics(), view, buffer.data(), shared_->pool);
  return buffer.data();
}

Status CpuBackend::product(GemmKey key, const HeldWeight* weight, std::byte* a, std::byte* b,
                           MutableTensorView result) {
  const bool direct = numerics().writes(result.desc.dtype);
  key.result = direct ? result.desc.dtype : DType::kF32;
  if (weight != nullptr) {
    key.k = weight->k;
    key.n = weight->n;
    key.packed = weight->packed;
  }
  const onednn::Product& gemm = cache_.get(key, weight);
  ScratchPool::Buffer sums;
  ScratchPool::Buffer scratchpad;
  std::byte* c = result.data;
  if (!direct) {
    ASSIGN_OR_RETURN(sums, scratch_.take(result.desc.elements() * sizeof(float)));
    c = sums.data();
  }
  if (gemm.scratchpad_bytes > 0) {
    ASSIGN_OR_RETURN(scratchpad, scratch_.take(gemm.scratchpad_bytes));
  }
  const dnnl::memory::desc bytes({static_cast<dnnl::memory::dim>(gemm.scratchpad_bytes)},
                                 dnnl::memory::data_type::u8, dnnl::memory::format_tag::a);
  gemm.primitive.execute(
      stream_, {{DNNL_ARG_SRC, dnnl::memory(gemm.a, shared_->engine, a)},
                {DNNL_ARG_WEIGHTS, dnnl::memory(gemm.b, shared_->engine, b)},
                {DNNL_ARG_DST, dnnl::memory(gemm.c, shared_->engine, c)},
                {DNNL_ARG_SCRATCHPAD, dnnl::memory(bytes, shared_->engine, scratchpad.data())}});
  stream_.wait();
  if (!direct) round_result(reinterpret_cast<const float*>(c), result, shared_->pool);
  return {};
}

}  // namespace

std::unique_ptr<Backend> make_cpu_backend(std::shared_ptr<CpuShared> shared) {
  return std::make_unique<CpuBackend>(std::move(shared));
}

}  // namespace airlock
