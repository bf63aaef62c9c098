#include "runtime/cpu/cpu_compute.h"

#include <utility>

#include "base/check.h"
#include "runtime/cpu/gemm_cache.h"
#include "runtime/scratch.h"

namespace airlock {

namespace {

/// One session's view of the model: its products and its scratch memory. One thread.
class CpuCompute : public Compute {
 public:
  explicit CpuCompute(std::shared_ptr<CpuShared> shared)
      : shared_(std::move(shared)),
        stream_(shared_->engine),
        cache_(shared_->engine, numerics().held) {}

  const BackendInfo& info() const override { return shared_->info; }
  Result<std::unique_ptr<Computation>> prepare(const OpSpec& spec, OpMemory memory,
                                               Deadline deadline) override;
  /// Waits for the threads, then computes. Never throws.
  Status run(const OpSpec& spec, const OpMemory& memory, Deadline deadline, OpTimes& times);

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

  // Keeps the weights alive.
  std::shared_ptr<CpuShared> shared_;
  ScratchPool scratch_;
  dnnl::stream stream_;
  GemmCache cache_;
};

/// Computes in submit().
class CpuComputation : public Computation {
 public:
  CpuComputation(CpuCompute& compute, const OpSpec& spec, OpMemory memory, Deadline deadline)
      : compute_(compute), spec_(spec), memory_(std::move(memory)), deadline_(deadline) {}

  Status submit() override {
    CHECK(!std::exchange(submitted_, true));
    return outcome_ = compute_.run(spec_, memory_, deadline_, times_);
  }
  bool done() override { return submitted_; }
  Status wait() override {
    CHECK(submitted_);
    return outcome_;
  }
  OpTimes times() const override { return times_; }

 private:
  CpuCompute& compute_;
  const OpSpec spec_;
  const OpMemory memory_;
  const Deadline deadline_;
  Status outcome_;
  OpTimes times_;
  bool submitted_ = false;
};

Result<std::unique_ptr<Computation>> CpuCompute::prepare(const OpSpec& spec, OpMemory memory,
                                                         Deadline deadline) {
  check_memory(spec, memory);
  return std::unique_ptr<Computation>(
      std::make_unique<CpuComputation>(*this, spec, std::move(memory), deadline));
}

Status CpuCompute::run(const OpSpec& spec, const OpMemory& memory, Deadline deadline,
                       OpTimes& times) {
  const std::uint64_t asked_ns = now_ns();
  ASSIGN_OR_RETURN(const FairGate::Turn turn, shared_->gate.enter(deadline));
  const std::uint64_t started_ns = now_ns();
  const Status status = onednn::guarded([&] {
    const onednn::ThreadCount threads(info().threads);
    return compute(spec, memory);
  });
  times.queue_ns = started_ns - asked_ns;
  times.server_ns = now_ns() - started_ns;
  times.total_ns = times.queue_ns + times.server_ns;
  return status;
}

Status CpuCompute::compute(const OpSpec& spec, const OpMemory& memory) {
  switch (spec.op) {
    case Op::kEmbedding:
      return embed(memory);
    case Op::kBatchLinear:
      return linear(spec, memory);
    case Op::kMatmul:
      return matmul(spec, memory);
    case Op::kLmHead:
      return lm_head(memory);
    case Op::kInit:
    case Op::kStats:
    case Op::kPing:
      break;
  }
  // check_memory() takes no other op.
  CHECK(false);
}

Status CpuCompute::embed(const OpMemory& memory) {
  ASSIGN_OR_RETURN(const std::vector<std::int32_t> ids,
                   read_token_ids(memory.inputs[0], info().dims.vocab));
  gather_rows(shared_->weights.table, ids, memory.results[0], shared_->pool);
  return {};
}

Status CpuCompute::linear(const OpSpec& spec, const OpMemory& memory) {
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

Status CpuCompute::lm_head(const OpMemory& memory) {
  ScratchPool::Buffer buffer;
  ASSIGN_OR_RETURN(std::byte * x, operand(memory.inputs[0], buffer));
  const HeldWeight& weight = shared_->weights.lm_head;
  GemmKey key;
  key.m = memory.inputs[0].desc.shape[0];
  return product(key, &weight, x, weight.data, memory.results[0]);
}

Status CpuCompute::matmul(const OpSpec& spec, const OpMemory& memory) {
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

Result<std::byte*> CpuCompute::operand(TensorView view, ScratchPool::Buffer& buffer) {
  // oneDNN's handles are not const; inputs are never written through them.
  if (numerics().takes(view.desc.dtype)) return const_cast<std::byte*>(view.data);
  ASSIGN_OR_RETURN(buffer, scratch_.take(view.desc.elements() * dtype_bytes(numerics().held)));
  hold(numerics(), view, buffer.data(), shared_->pool);
  return buffer.data();
}

Status CpuCompute::product(GemmKey key, const HeldWeight* weight, std::byte* a, std::byte* b,
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

std::unique_ptr<Compute> make_cpu_compute(std::shared_ptr<CpuShared> shared) {
  return std::make_unique<CpuCompute>(std::move(shared));
}

}  // namespace airlock
