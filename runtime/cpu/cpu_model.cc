#include "runtime/cpu/cpu_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/int8_rows.h"
#include "base/log.h"
#include "proto/limits.h"
#include "runtime/cpu/blas.h"
#include "runtime/cpu/fair_gate.h"
#include "runtime/cpu/int8_weights_held.h"
#include "runtime/cpu/int_linear.h"
#include "runtime/cpu/product.h"
#include "runtime/cpu/product_f64.h"
#include "runtime/cpu/sliced_run.h"
#include "runtime/cpu/weights.h"
#include "runtime/placement/placement.h"
#include "runtime/scratch.h"

namespace airlock {

/// What all Computes of one CpuModel share. `pool` and `streams` belong to whoever has the gate's
/// turn; the rest but for `int8`, which guards itself, never changes.
struct CpuShared {
  BackendInfo info;
  dnnl::engine engine{dnnl::engine::kind::cpu, 0};
  Weights weights;                        // none of create_without_weights() and create_for_int8()
  std::optional<ModelShare> model_share;  // what is held; nothing: all
  Int8Keeper int8{engine};
  FairGate gate;
  std::shared_ptr<ThreadPool> pool;   // perhaps the caller's too
  std::vector<dnnl::stream> streams;  // of each thread of the pool
};

namespace {

// A piece of what is only copied or converted.
constexpr std::int64_t kPieceElements = std::int64_t{1} << 17;
// With less work than this for each thread, to wake one takes longer than what it saves.
constexpr std::int64_t kFlopAThread = std::int64_t{1} << 22;

bool needs_float_weights(Op op) {
  return op == Op::kEmbedding || op == Op::kBatchLinear || op == Op::kLmHead;
}

/// One session's view of the model: its products and its scratch memory. One thread.
class CpuCompute : public Compute {
 public:
  explicit CpuCompute(std::shared_ptr<CpuShared> shared)
      : shared_(std::move(shared)),
        products_(shared_->engine, onednn::data_type(numerics().held),
                  shared_->pool->thread_count()),
        int_products_(shared_->engine, dnnl::memory::data_type::s8, shared_->pool->thread_count()) {
  }

  const BackendInfo& info() const override { return shared_->info; }
  Result<std::unique_ptr<Computation>> prepare(const OpSpec& spec, OpMemory memory,
                                               const OpLife& life) override;

  /// Waits for the threads, then computes. Never throws. Ok: all of the results is written, for
  /// every element lies in a piece, and every piece was run.
  Status run(const OpSpec& spec, const OpMemory& memory, const OpLife& life, OpTimes& times) {
    const std::uint64_t start_ns = now_ns();
    SlicedRun threads(shared_->gate, share_, *shared_->pool, life);
    const Status status = onednn::guarded([&] {
      const onednn::OneThread alone;
      return compute(spec, memory, threads);
    });
    times.total_ns = now_ns() - start_ns;
    times.queue_ns = threads.waited_ns();
    times.server_ns = times.total_ns - times.queue_ns;
    return status;
  }

 private:
  const Numerics& numerics() const { return shared_->weights.numerics; }

  Status compute(const OpSpec& spec, const OpMemory& memory, SlicedRun& threads) {
    if (needs_float_weights(spec.op) && shared_->weights.layers.empty()) {
      return {StatusCode::kInvalidInput, "{}: there are int8 weights alone", name_of(spec.op)};
    }
    return spec.result_dtype == DType::kI8 ? compute_int8_rows(spec, memory, threads)
                                           : compute_values(spec, memory, threads);
  }

  /// In fp32 first: a block is rounded by all that it holds.
  Status compute_int8_rows(const OpSpec& spec, const OpMemory& memory, SlicedRun& threads) {
    std::vector<ScratchPool::Buffer> buffers(memory.results.size());
    OpMemory values{memory.inputs, {}, {}};
    for (std::size_t i = 0; i < buffers.size(); ++i) {
      const TensorDesc desc = widened(memory.results[i].desc);
      ASSIGN_OR_RETURN(buffers[i], scratch_.take(desc.bytes()));
      values.results.push_back({buffers[i].data(), desc});
    }
    RETURN_IF_ERROR(compute_values(spec, values, threads));
    for (std::size_t i = 0; i < buffers.size(); ++i) {
      const TensorView from = values.results[i];
      const auto round = [&](std::int64_t first, std::int64_t count) {
        store_int8_rows(rows_of(from, first, count), rows_of(memory.results[i], first, count));
      };
      RETURN_IF_ERROR(for_rows(from.desc.shape, round, threads));
    }
    return {};
  }

  /// body(first, count) for rows of [rows, columns], a piece at a time.
  static Status for_rows(const Shape& shape, const auto& body, SlicedRun& threads) {
    const Cut cut{shape[0], std::max<std::int64_t>(kPieceElements / shape[1], 1)};
    return threads.run(static_cast<std::size_t>(cut.parts()), [&](std::size_t, std::size_t piece) {
      const auto part = static_cast<std::int64_t>(piece);
      body(cut.begin(part), cut.size(part));
    });
  }

  Status compute_values(const OpSpec& spec, const OpMemory& memory, SlicedRun& threads) {
    switch (spec.op) {
      case Op::kEmbedding:
        return embed(memory, threads);
      case Op::kBatchLinear:
      case Op::kLmHead:
        return linear(spec, memory, threads);
      case Op::kMatmul:
        return matmul(spec, memory, threads);
      case Op::kIntLinear:
      case Op::kPadLinear:
        return integer(spec, memory, threads);
      case Op::kInit:
      case Op::kStats:
      case Op::kPing:
        break;
    }
    // check_memory() takes no other op.
    CHECK(false);
  }

  Status embed(const OpMemory& memory, SlicedRun& threads) {
    ASSIGN_OR_RETURN(const std::vector<std::int32_t> ids,
                     read_token_ids(memory.inputs[0], info().dims.vocab));
    const MutableTensorView& all = memory.results[0];
    const auto gather = [&](std::int64_t first, std::int64_t count) {
      const auto some =
          std::span(ids).subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count));
      shared_->weights.gather(some, rows_of(all, first, count));
    };
    return for_rows(all.desc.shape, gather, threads);
  }

  Status linear(const OpSpec& spec, const OpMemory& memory, SlicedRun& threads) {
    const Weights& weights = shared_->weights;
    ScratchPool::Buffer buffer;
    ASSIGN_OR_RETURN(const std::byte* x, operand(memory.inputs[0], buffer, threads));
    std::vector<Product> products;
    products.reserve(memory.results.size());
    for (std::size_t i = 0; i < memory.results.size(); ++i) {
      const HeldWeight& weight =
          spec.op == Op::kLmHead ? weights.lm_head : weights.weight(spec.weights[i]);
      products.emplace_back(products_, numerics(), x, weight, memory.results[i]);
    }
    return multiply(products, threads);
  }

  Status integer(const OpSpec& spec, const OpMemory& memory, SlicedRun& threads) {
    const std::shared_ptr<const HeldInt8> held = shared_->int8.held();
    if (held == nullptr)
      return {StatusCode::kInvalidInput, "{}: there are no int8 weights", name_of(spec.op)};
    return multiply_integers({int_products_, scratch_, threads, shared_->streams, *held}, spec,
                             memory);
  }

  Status matmul_f64(const OpSpec& spec, const OpMemory& memory, SlicedRun& threads) {
    const ProductF64 product(spec, memory);
    return threads.run(
        product.piece_count(), [&](std::size_t, std::size_t piece) { product.run(piece); },
        most_workers_for(product.flop()));
  }

  Status matmul(const OpSpec& spec, const OpMemory& memory, SlicedRun& threads) {
    if (spec.result_dtype == DType::kF64) return matmul_f64(spec, memory, threads);
    ScratchPool::Buffer a_buffer;
    ScratchPool::Buffer b_buffer;
    ASSIGN_OR_RETURN(const std::byte* a, operand(memory.inputs[0], a_buffer, threads));
    ASSIGN_OR_RETURN(const std::byte* b, operand(memory.inputs[1], b_buffer, threads));
    const Product product(products_, numerics(), spec, a, b, memory.results[0]);
    return multiply({&product, 1}, threads);
  }

  /// Where the values of `view` lie, rounded and held; in `buffer` unless they can be taken as they
  /// are.
  Result<const std::byte*> operand(TensorView view, ScratchPool::Buffer& buffer,
                                   SlicedRun& threads) {
    const DType from = view.desc.dtype;
    if (numerics().takes(from)) return view.data;
    const std::size_t held_bytes = dtype_bytes(numerics().held);
    ASSIGN_OR_RETURN(buffer, scratch_.take(view.desc.elements() * held_bytes));
    if (from == DType::kI8) {
      const auto width = static_cast<std::size_t>(wire_width(from, view.desc.shape[1]));
      const auto hold_rows = [&](std::int64_t first, std::int64_t count) {
        hold_int8_rows(numerics(), rows_of(view, first, count),
                       buffer.data() + static_cast<std::size_t>(first) * width * held_bytes);
      };
      RETURN_IF_ERROR(for_rows(view.desc.shape, hold_rows, threads));
      return buffer.data();
    }
    const Cut cut{static_cast<std::int64_t>(view.desc.elements()), kPieceElements};
    const auto hold = [&](std::size_t, std::size_t piece) {
      const auto part = static_cast<std::int64_t>(piece);
      const auto first = static_cast<std::size_t>(cut.begin(part));
      hold_block(numerics(), from, view.data + first * dtype_bytes(from),
                 buffer.data() + first * held_bytes, static_cast<std::size_t>(cut.size(part)));
    };
    RETURN_IF_ERROR(threads.run(static_cast<std::size_t>(cut.parts()), std::ref(hold)));
    return buffer.data();
  }

  static std::size_t most_workers_for(std::int64_t flop) {
    return static_cast<std::size_t>(std::max<std::int64_t>(flop / kFlopAThread, 1));
  }

  /// All pieces of all products, as one run: a narrow weight's keep no thread waiting.
  Status multiply(std::span<const Product> products, SlicedRun& threads) {
    std::size_t count = 0;
    std::size_t bytes = 0;
    std::int64_t flop = 0;
    for (const Product& product : products) {
      count += product.piece_count();
      flop += product.flop();
      bytes = std::max(bytes, product.memory_bytes());
    }
    bytes = (bytes + 63) / 64 * 64;
    const std::size_t most_workers = most_workers_for(flop);
    std::vector<PieceMemory> memory(threads.worker_count(count, most_workers));
    ScratchPool::Buffer buffer;
    if (bytes > 0) {
      ASSIGN_OR_RETURN(buffer, scratch_.take(memory.size() * bytes));
      for (std::size_t i = 0; i < memory.size(); ++i) memory[i].data = buffer.data() + i * bytes;
    }
    const auto multiply_piece = [&](std::size_t worker, std::size_t piece) {
      const Product* product = products.data();
      while (piece >= product->piece_count()) piece -= product++->piece_count();
      product->run(piece, worker, memory[worker], shared_->streams[worker]);
    };
    return threads.run(count, std::ref(multiply_piece), most_workers);
  }

  // Keeps the weights alive: sessions end in any order.
  const std::shared_ptr<CpuShared> shared_;
  FairGate::Share share_;
  ScratchPool scratch_;
  onednn::ProductCache products_;
  onednn::ProductCache int_products_;
};

/// Computes in submit().
class CpuComputation : public Computation {
 public:
  CpuComputation(CpuCompute& compute, const OpSpec& spec, OpMemory memory, const OpLife& life)
      : compute_(compute), spec_(spec), memory_(std::move(memory)), life_(life) {}

  Status submit() override {
    CHECK(!std::exchange(submitted_, true));
    return outcome_ = compute_.run(spec_, memory_, life_, times_);
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
  const OpLife life_;
  Status outcome_;
  OpTimes times_;
  bool submitted_ = false;
};

Result<std::unique_ptr<Computation>> CpuCompute::prepare(const OpSpec& spec, OpMemory memory,
                                                         const OpLife& life) {
  check_memory(spec, memory);
  for (std::size_t i = 0; i < memory.results.size(); ++i) CHECK(memory.is_dense(i));
  if (shared_->model_share) {
    RETURN_IF_ERROR(check_share_results(spec, info().dims, *shared_->model_share, memory.results));
  }
  return std::unique_ptr<Computation>(
      std::make_unique<CpuComputation>(*this, spec, std::move(memory), life));
}

Status check_threads(std::size_t threads) {
  if (threads >= 1 && threads <= limits::kMaxThreads) return {};
  return {StatusCode::kInvalidInput, "threads is {}, expected 1 to {}", threads,
          limits::kMaxThreads};
}

Result<std::shared_ptr<CpuShared>> share(std::shared_ptr<ThreadPool> pool) {
  std::shared_ptr<CpuShared> shared;
  RETURN_IF_ERROR(onednn::guarded([&]() -> Status {
    shared = std::make_shared<CpuShared>();
    shared->pool = std::move(pool);
    for (std::size_t i = 0; i < shared->pool->thread_count(); ++i)
      shared->streams.emplace_back(shared->engine);
    return {};
  }));
  return shared;
}

}  // namespace

Result<std::shared_ptr<CpuModel>> CpuModel::create(const ModelSource& model,
                                                   const LoadOptions& options,
                                                   std::shared_ptr<ThreadPool> pool) {
  if (!is_model_float(options.dtype)) {
    return Status(StatusCode::kInvalidInput, "dtype is {}, expected fp32, fp16 or bf16",
                  name_of(options.dtype));
  }
  RETURN_IF_ERROR(check_threads(options.threads));
  RETURN_IF_ERROR(model.config().dims.check());
  Numerics numerics{options.dtype, options.dtype};
  if (options.dtype == DType::kF16 || (options.dtype == DType::kBF16 && !onednn::has_bf16())) {
    numerics.held = DType::kF32;
    log_info(
        fmt::format("this CPU does not multiply {0}: weights and operands are rounded to {0} and "
                    "multiplied in fp32",
                    name_of(options.dtype)));
  }
  if (pool == nullptr) {
    ASSIGN_OR_RETURN(pool, ThreadPool::create(options.threads));
  }
  CHECK(pool->thread_count() == options.threads);
  ASSIGN_OR_RETURN(std::shared_ptr<CpuShared> shared, share(std::move(pool)));
  std::string digest;
  if (options.share != nullptr) {
    RETURN_IF_ERROR(options.share->check(model.config().dims));
    shared->model_share = *options.share;
  } else {
    ASSIGN_OR_RETURN(digest, model.digest());
  }
  ASSIGN_OR_RETURN(shared->weights,
                   load_weights(model, numerics, shared->engine, options, *shared->pool));
  shared->info = {model.config().dims, options.dtype, model.stored_dtype(), options.threads, "cpu",
                  std::move(digest),   blas::name()};
  return std::shared_ptr<CpuModel>(new CpuModel(std::move(shared)));
}

Result<std::shared_ptr<CpuModel>> CpuModel::create_without_weights(std::size_t threads) {
  RETURN_IF_ERROR(check_threads(threads));
  ASSIGN_OR_RETURN(std::shared_ptr<ThreadPool> pool, ThreadPool::create(threads));
  ASSIGN_OR_RETURN(std::shared_ptr<CpuShared> shared, share(std::move(pool)));
  shared->info = {{}, DType::kF32, DType::kF32, threads, "cpu", {}, blas::name()};
  return std::shared_ptr<CpuModel>(new CpuModel(std::move(shared)));
}

Result<std::shared_ptr<CpuModel>> CpuModel::create_for_int8(const ModelSource& model,
                                                            Int8Weights weights,
                                                            std::size_t threads,
                                                            std::shared_ptr<ThreadPool> pool,
                                                            const Int8Sink& also) {
  RETURN_IF_ERROR(check_threads(threads));
  RETURN_IF_ERROR(model.config().dims.check());
  if (pool == nullptr) {
    ASSIGN_OR_RETURN(pool, ThreadPool::create(threads));
  }
  CHECK(pool->thread_count() == threads);
  ASSIGN_OR_RETURN(std::shared_ptr<CpuShared> shared, share(std::move(pool)));
  ASSIGN_OR_RETURN(std::string digest, model.digest());
  RETURN_IF_ERROR(
      shared->int8.prepare(model, weights, nullptr, threads, shared->pool.get(), also, {})
          .status());
  shared->info = {model.config().dims, DType::kF32, model.stored_dtype(), threads, "cpu",
                  std::move(digest),   blas::name()};
  return std::shared_ptr<CpuModel>(new CpuModel(std::move(shared)));
}

const BackendInfo& CpuModel::info() const { return shared_->info; }

Result<std::string> CpuModel::prepare_int8(const ModelSource& model, Int8Weights weights,
                                           const Int8Progress& progress) {
  ASSIGN_OR_RETURN(const std::vector<Int8Line> lines, prepare_int8_share(model, weights, progress));
  return join_int8_lines(weights, shared_->info.dims, lines);
}

Result<std::vector<Int8Line>> CpuModel::prepare_int8_share(const ModelSource& model,
                                                           Int8Weights weights,
                                                           const Int8Progress& progress) {
  const ModelShare* share = shared_->model_share ? &*shared_->model_share : nullptr;
  ASSIGN_OR_RETURN(
      const Int8Model* made,
      shared_->int8.prepare(model, weights, share, shared_->info.threads, nullptr, {}, progress));
  return made->lines;
}

const Int8Model* CpuModel::int8() const { return shared_->int8.facts(); }

std::unique_ptr<Compute> CpuModel::make_compute() { return std::make_unique<CpuCompute>(shared_); }

}  // namespace airlock
