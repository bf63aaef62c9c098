#include "runtime/cpu/cpu_model.h"

#include <fmt/format.h>

#include <system_error>
#include <utility>

#include "base/check.h"
#include "base/log.h"
#include "base/thread_pool.h"
#include "proto/limits.h"
#include "runtime/cpu/fair_gate.h"
#include "runtime/cpu/weights.h"
#include "runtime/scratch.h"

namespace airlock {

/// What all Computes of one CpuModel share. `pool` belongs to whoever has the gate's turn; the rest
/// never changes.
struct CpuShared {
  explicit CpuShared(std::size_t threads) : pool(threads) {}

  BackendInfo info;
  dnnl::engine engine{dnnl::engine::kind::cpu, 0};
  Weights weights;
  FairGate gate;
  ThreadPool pool;
};

namespace {

/// One session's view of the model: its products and its scratch memory. One thread.
class CpuCompute : public Compute {
 public:
  explicit CpuCompute(std::shared_ptr<CpuShared> shared)
      : shared_(std::move(shared)),
        stream_(shared_->engine),
        products_(shared_->engine, numerics().held) {}

  const BackendInfo& info() const override { return shared_->info; }
  Result<std::unique_ptr<Computation>> prepare(const OpSpec& spec, OpMemory memory,
                                               Deadline deadline) override;

  /// Waits for the threads, then computes. Never throws.
  Status run(const OpSpec& spec, const OpMemory& memory, Deadline deadline, OpTimes& times) {
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

 private:
  const Numerics& numerics() const { return shared_->weights.numerics; }

  Status compute(const OpSpec& spec, const OpMemory& memory) {
    switch (spec.op) {
      case Op::kEmbedding:
        return embed(memory);
      case Op::kBatchLinear:
      case Op::kLmHead:
        return linear(spec, memory);
      case Op::kMatmul:
        return matmul(spec, memory);
      case Op::kInit:
      case Op::kStats:
      case Op::kPing:
        break;
    }
    // check_memory() takes no other op.
    CHECK(false);
  }

  Status embed(const OpMemory& memory) {
    ASSIGN_OR_RETURN(const std::vector<std::int32_t> ids,
                     read_token_ids(memory.inputs[0], info().dims.vocab));
    gather_rows(shared_->weights.table, ids, memory.results[0], shared_->pool);
    return {};
  }

  Status linear(const OpSpec& spec, const OpMemory& memory) {
    const Weights& weights = shared_->weights;
    ScratchPool::Buffer buffer;
    ASSIGN_OR_RETURN(std::byte * x, operand(memory.inputs[0], buffer));
    for (std::size_t i = 0; i < memory.results.size(); ++i) {
      const HeldWeight& weight =
          spec.op == Op::kLmHead ? weights.lm_head : weights.weight(spec.weights[i]);
      onednn::ProductKey key;
      key.m = spec.inputs[0].shape[0];
      key.k = weight.k;
      key.n = weight.n;
      key.packed = weight.packed;
      RETURN_IF_ERROR(product(key, &weight.layout, x, weight.data, memory.results[i]));
    }
    return {};
  }

  Status matmul(const OpSpec& spec, const OpMemory& memory) {
    const Shape& a_shape = spec.inputs[0].shape;
    const Shape& b_shape = spec.inputs[1].shape;
    ScratchPool::Buffer a_buffer;
    ScratchPool::Buffer b_buffer;
    ASSIGN_OR_RETURN(std::byte * a, operand(memory.inputs[0], a_buffer));
    ASSIGN_OR_RETURN(std::byte * b, operand(memory.inputs[1], b_buffer));
    onednn::ProductKey key;
    key.transpose = spec.transpose;
    key.groups = b_shape[0];
    key.heads_per_group = a_shape[0] / b_shape[0];
    key.m = a_shape[spec.transpose == Transpose::kA ? 2 : 1];
    key.k = a_shape[spec.transpose == Transpose::kA ? 1 : 2];
    key.n = b_shape[spec.transpose == Transpose::kB ? 1 : 2];
    if (spec.transpose != Transpose::kA) {
      // The heads of a group lie one behind the other and meet the same b: they are the rows of
      // one matrix.
      key.m *= std::exchange(key.heads_per_group, 1);
    }
    return product(key, nullptr, a, b, memory.results[0]);
  }

  /// Where the values of `view` lie, rounded and held; in `buffer` unless they can be taken as they
  /// are.
  Result<std::byte*> operand(TensorView view, ScratchPool::Buffer& buffer) {
    // oneDNN's handles are not const; inputs are never written through them.
    if (numerics().takes(view.desc.dtype)) return const_cast<std::byte*>(view.data);
    ASSIGN_OR_RETURN(buffer, scratch_.take(view.desc.elements() * dtype_bytes(numerics().held)));
    hold(numerics(), view, buffer.data(), shared_->pool);
    return buffer.data();
  }

  /// `weight` is the layout of `b` where that is one, else null.
  Status product(onednn::ProductKey key, const dnnl::memory::desc* weight, std::byte* a,
                 std::byte* b, MutableTensorView result) {
    const bool direct = numerics().writes(result.desc.dtype);
    key.result = direct ? result.desc.dtype : DType::kF32;
    const onednn::Product& gemm = products_.get(key, weight);
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
    const dnnl::engine& engine = shared_->engine;
    const dnnl::memory::desc bytes({static_cast<dnnl::memory::dim>(gemm.scratchpad_bytes)},
                                   dnnl::memory::data_type::u8, dnnl::memory::format_tag::a);
    gemm.primitive.execute(stream_,
                           {{DNNL_ARG_SRC, dnnl::memory(gemm.a, engine, a)},
                            {DNNL_ARG_WEIGHTS, dnnl::memory(gemm.b, engine, b)},
                            {DNNL_ARG_DST, dnnl::memory(gemm.c, engine, c)},
                            {DNNL_ARG_SCRATCHPAD, dnnl::memory(bytes, engine, scratchpad.data())}});
    stream_.wait();
    if (!direct) round_result(reinterpret_cast<const float*>(c), result, shared_->pool);
    return {};
  }

  // Keeps the weights alive: sessions end in any order.
  const std::shared_ptr<CpuShared> shared_;
  ScratchPool scratch_;
  dnnl::stream stream_;
  onednn::ProductCache products_;
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

}  // namespace

Result<std::shared_ptr<CpuModel>> CpuModel::create(const ModelSource& model,
                                                   const LoadOptions& options) {
  if (!is_float(options.dtype)) {
    return Status(StatusCode::kInvalidInput, "dtype is {}, expected fp32, fp16 or bf16",
                  name_of(options.dtype));
  }
  if (options.threads < 1 || options.threads > limits::kMaxThreads) {
    return Status(StatusCode::kInvalidInput, "threads is {}, expected 1 to {}", options.threads,
                  limits::kMaxThreads);
  }
  RETURN_IF_ERROR(onednn::check_threads(options.threads));
  RETURN_IF_ERROR(model.config().dims.check());
  Numerics numerics{options.dtype, options.dtype};
  if (options.dtype == DType::kF16 || (options.dtype == DType::kBF16 && !onednn::has_bf16())) {
    numerics.held = DType::kF32;
    log_info(
        fmt::format("this CPU does not multiply {0}: weights and operands are rounded to {0} and "
                    "multiplied in fp32",
                    name_of(options.dtype)));
  }
  std::shared_ptr<CpuShared> shared;
  RETURN_IF_ERROR(onednn::guarded([&]() -> Status {
    try {
      shared = std::make_shared<CpuShared>(options.threads);
    } catch (const std::system_error& error) {
      return {StatusCode::kResourceExhausted, "{} threads: {}", options.threads, error.what()};
    }
    return {};
  }));
  ASSIGN_OR_RETURN(std::string digest, model.digest());
  ASSIGN_OR_RETURN(shared->weights,
                   load_weights(model, numerics, shared->engine, options, shared->pool));
  shared->info = {model.config().dims, options.dtype, model.stored_dtype(),
                  options.threads,     "cpu",         std::move(digest)};
  return std::shared_ptr<CpuModel>(new CpuModel(std::move(shared)));
}

const BackendInfo& CpuModel::info() const { return shared_->info; }

std::unique_ptr<Compute> CpuModel::make_compute() { return std::make_unique<CpuCompute>(shared_); }

}  // namespace airlock
