#include <fmt/format.h>
#include <nvtx3/nvToolsExt.h>

#include <algorithm>
#include <deque>
#include <exception>
#include <string>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/thread.h"
#include "base/version.h"
#include "gpu_server/cuda/op.h"
#include "runtime/model/forward_plan.h"

namespace airlock::cuda {

namespace {

constexpr std::chrono::seconds kWarmUpTimeout{60};
/// What was queued is given so long to end once nobody wants it any more, and at least the op's own
/// time: it may be queued behind large ops of other sessions. Then the device hangs.
constexpr std::chrono::seconds kAbandonTimeout{5};

class CudaOp;

/// A Compute on streams of its own; it and its ops on one thread. Two ops are on the device at
/// once, more wait in the order of their submit().
class CudaCompute : public Compute {
 public:
  /// `shared` lives as long as the last of its Computes and their ops.
  explicit CudaCompute(std::shared_ptr<Shared> shared) : session_(std::move(shared)) {}

  const BackendInfo& info() const override { return session_.shared->info; }
  Result<std::unique_ptr<Computation>> prepare(const OpSpec& spec, OpMemory memory,
                                               const OpLife& life) override;

  SessionDevice& session() { return session_; }
  void enqueue(CudaOp& op) { queue_.push_back(&op); }
  /// An op that never got a lane, or is over.
  void forget(CudaOp& op) { std::erase(queue_, &op); }
  /// Looks what is over, and starts what has found a lane. Never waits.
  void advance();

 private:
  SessionDevice session_;
  std::deque<CudaOp*> queue_;  // submitted, not over; they end in this order
};

/// Its server_ns is the device's own time of its copies and products, queue_ns the rest from
/// submit() to its end.
class CudaOp : public Computation {
 public:
  CudaOp(CudaCompute& compute, const OpSpec& spec, OpMemory memory, Deadline deadline)
      : compute_(compute),
        device_(compute.session().device),
        deadline_(deadline),
        work_(compute.session(), spec, std::move(memory)) {}
  CudaOp(const CudaOp&) = delete;
  CudaOp& operator=(const CudaOp&) = delete;

  ~CudaOp() override {
    if (waits_for_lane()) compute_.forget(*this);
    const bool under_way = state_ == State::kRunning || state_ == State::kDraining;
    const Deadline deadline =
        Deadline::after(std::max<std::chrono::nanoseconds>(deadline_.remaining(), kAbandonTimeout));
    // The memory must not change hands while the device reads or writes it.
    for (Patience patience(kSpins); under_way && !done(); patience.pause()) {
      if (!deadline.expired()) continue;
      (void)device_.lose(fmt::format("{}: {} does not end: the device hangs", device_.label(),
                                     name_of(work_.op())));
    }
  }

  Status submit() override {
    CHECK(state_ == State::kPrepared);
    submit_ns_ = now_ns();
    RETURN_IF_ERROR(work_.check());
    state_ = State::kQueued;
    compute_.enqueue(*this);
    return done() ? status_ : Status();
  }

  bool done() override {
    compute_.advance();
    return over();
  }

  Status wait() override {
    CHECK(state_ != State::kPrepared);
    for (Patience patience(kSpins);; patience.pause()) {
      if (done()) return status_;
      if (deadline_.expired()) {
        return {StatusCode::kDeadlineExceeded, "{} did not end within its time limit",
                name_of(work_.op())};
      }
    }
  }

  OpTimes times() const override { return times_; }

  bool waits_for_lane() const { return state_ == State::kQueued; }
  bool over() const { return state_ == State::kOver; }

  void start(Lane& lane) {
    status_ = device_.health();
    if (!status_.ok()) return end();
    lane_ = &lane;
    lane.taken = true;
    state_ = State::kRunning;
    nvtxRangePushA(std::string(name_of(work_.op())).c_str());
    const Status status = work_.start(lane);
    nvtxRangePop();
    if (!status.ok()) fail(status);
  }

  void advance() {
    if (state_ == State::kRunning) {
      const Result<bool> over = work_.advance(times_.device);
      if (over.ok() && *over) end();
      if (!over.ok()) fail(over.status());
    }
    if (state_ != State::kDraining) return;
    const auto streams = compute_.session().streams();
    while (drained_ < streams.size() && !device_.lost()) {
      const Result<bool> empty = device_.is_over(cudaStreamQuery(streams[drained_]));
      if (!empty.ok()) break;  // the device is lost
      if (!*empty) return;
      ++drained_;
    }
    end();
  }

 private:
  enum class State { kPrepared, kQueued, kRunning, kDraining, kOver };

  // What was queued so far still reads and writes this op's memory.
  void fail(const Status& status) {
    status_ = status;
    state_ = State::kDraining;
  }

  void end() {
    state_ = State::kOver;
    work_.wipe();
    if (lane_ != nullptr) lane_->taken = false;
    const DeviceTimes& device = times_.device;
    times_.total_ns = now_ns() - submit_ns_;
    times_.server_ns =
        std::min(device.copy_in_ns + device.compute_ns + device.copy_out_ns, times_.total_ns);
    times_.queue_ns = times_.total_ns - times_.server_ns;
  }

  CudaCompute& compute_;
  Device& device_;
  const Deadline deadline_;
  OpWork work_;
  State state_ = State::kPrepared;
  Lane* lane_ = nullptr;
  // Streams that were seen empty.
  std::size_t drained_ = 0;
  Status status_;
  OpTimes times_;
  std::uint64_t submit_ns_ = 0;
};

void CudaCompute::advance() {
  if (queue_.empty()) return;
  // Its thread may have several devices. One that cannot be used any more is no use to anybody.
  if (const Status status = session_.device.use(); !status.ok())
    (void)session_.device.lose(status.message());
  while (!queue_.empty() && !queue_.front()->waits_for_lane()) {
    CudaOp& first = *queue_.front();
    first.advance();
    if (!first.over()) break;
    queue_.pop_front();
  }
  for (std::size_t i = 0; i < queue_.size();) {
    CudaOp& op = *queue_[i];
    if (op.waits_for_lane()) {
      Lane* lane = session_.free_lane();
      if (lane == nullptr) break;
      op.start(*lane);
      if (op.over()) {  // nothing to do, or nothing was begun
        forget(op);
        continue;
      }
    }
    ++i;
  }
}

Result<std::unique_ptr<Computation>> CudaCompute::prepare(const OpSpec& spec, OpMemory memory,
                                                          const OpLife& life) {
  RETURN_IF_ERROR(session_.device.health());
  check_memory(spec, memory);
  const Shared& shared = *session_.shared;
  if (shared.model_share) {
    RETURN_IF_ERROR(
        check_share_results(spec, shared.info.dims, *shared.model_share, memory.results));
  }
  return std::unique_ptr<Computation>(
      std::make_unique<CudaOp>(*this, spec, std::move(memory), life.deadline));
}

class CudaModelImpl : public CudaModel {
 public:
  explicit CudaModelImpl(std::shared_ptr<Shared> shared) : shared_(std::move(shared)) {}

  const BackendInfo& info() const override { return shared_->info; }
  const CudaDeviceInfo& device() const override { return shared_->device->info(); }
  Result<std::unique_ptr<Compute>> make_compute(
      std::span<const std::span<std::byte>> segments) override {
    RETURN_IF_ERROR(health());
    auto compute = std::make_unique<CudaCompute>(shared_);
    RETURN_IF_ERROR(compute->session().open(segments));
    return std::unique_ptr<Compute>(std::move(compute));
  }
  Result<std::string> prepare_int8(const ModelSource& model, Int8Weights weights,
                                   const Int8Progress& progress) override {
    ASSIGN_OR_RETURN(const std::vector<Int8Line> lines,
                     prepare_int8_share(model, weights, progress));
    return join_int8_lines(weights, shared_->info.dims, lines);
  }
  Result<std::vector<Int8Line>> prepare_int8_share(const ModelSource& model, Int8Weights weights,
                                                   const Int8Progress& progress) override {
    std::vector<Int8Line> lines;
    RETURN_IF_ERROR(without_exceptions([&]() -> Status {
      ASSIGN_OR_RETURN(lines, shared_->prepare_int8(model, weights, progress));
      return {};
    }));
    return lines;
  }
  Status health() const override { return shared_->device->health(); }

 private:
  std::shared_ptr<Shared> shared_;
};

/// Does nothing where the share has not all that the op names.
Status run_once(Compute& compute, const ModelShare& share, const OpSpec& spec) {
  const auto descs = share_results(spec, compute.info().dims, share);
  // What a share has nothing of it does not compute.
  if (!descs.ok())
    return share == ModelShare::whole(compute.info().dims) ? descs.status() : Status();
  std::vector<Tensor> tensors;
  tensors.reserve(spec.inputs.size() + descs->size());
  OpMemory memory;
  for (const TensorDesc& desc : spec.inputs)
    memory.inputs.push_back(tensors.emplace_back(desc).view());
  for (const TensorDesc& desc : *descs)
    memory.results.push_back(tensors.emplace_back(desc).mutable_view());
  ASSIGN_OR_RETURN(auto op, compute.prepare(spec, memory, Deadline::after(kWarmUpTimeout)));
  RETURN_IF_ERROR(op->submit());
  return op->wait();
}

Status run_matmul(Compute& compute, const ModelShare& share, DType dtype) {
  const TensorDesc square{dtype, Shape{1, 8, 8}};
  return run_once(compute, share, matmul_spec(square, square, Transpose::kNone, dtype));
}

/// An op of the first layer, as one of a layer that the share has some of, with the weights that it
/// has.
OpSpec held_part(OpSpec spec, const ModelShare& share) {
  std::uint16_t layer = 0;
  while (layer + 1U < share.layers.size() && !share.holds_layer(layer)) ++layer;
  for (WeightId& weight : spec.weights) weight.layer = layer;
  std::erase_if(spec.weights, [&](const WeightId& weight) { return share.rows(weight).empty(); });
  return spec;
}

// cuBLAS and CUDA load their kernels with the first call that needs them: better now than within
// the first prompt. It also shows that the device computes at all.
Status warm_up(Compute& compute, const std::optional<ModelShare>& held) {
  const BackendInfo& info = compute.info();
  const ModelShare share = held ? *held : ModelShare::whole(info.dims);
  if (info.dims.is_none()) {
    RETURN_IF_ERROR(run_matmul(compute, share, DType::kF32));
    return run_matmul(compute, share, DType::kF64);
  }
  ModelDims one_layer = info.dims;
  one_layer.layers = 1;
  for (const std::int64_t tokens : {1, 128}) {
    ASSIGN_OR_RETURN(const std::vector<PlannedOp> ops,
                     plan_forward(one_layer, {.tokens = tokens, .wire = info.stored_dtype}));
    for (const PlannedOp& op : ops)
      RETURN_IF_ERROR(run_once(compute, share, held_part(op.spec, share)));
  }
  return {};
}

Status check(const ModelSource& model, const CudaOptions& options) {
  if (!is_model_float(options.dtype))
    return {StatusCode::kInvalidInput, "a model's dtype is fp32, fp16 or bf16"};
  RETURN_IF_ERROR(model.config().dims.check());
  return options.share != nullptr ? options.share->check(model.config().dims) : Status();
}

Status load_model(const ModelSource& model, const CudaOptions& options, Shared& shared) {
  BackendInfo& info = shared.info;
  info.dims = model.config().dims;
  info.dtype = options.dtype;
  info.stored_dtype = model.stored_dtype();
  if (options.share != nullptr) {
    shared.model_share = *options.share;
  } else {
    ASSIGN_OR_RETURN(info.digest, model.digest());
  }
  ASSIGN_OR_RETURN(shared.weights, load_weights(*shared.device, model, options));
  return {};
}

/// Loads, if there is a model, then runs each kind of op once.
Result<std::shared_ptr<CudaModel>> load(const ModelSource* model, const CudaOptions& options) {
  if (model != nullptr) RETURN_IF_ERROR(check(*model, options));
  auto shared = std::make_shared<Shared>();
  ASSIGN_OR_RETURN(shared->device, Device::open(options.device));
  RETURN_IF_ERROR(shared->device->health());
  shared->tf32 = options.tf32;
  shared->warn = options.warn;
  shared->info.threads = options.threads;
  shared->info.device = shared->device->label();
  shared->info.fp64_products = "cuBLAS " + shared->device->info().cublas;
  if (model != nullptr) RETURN_IF_ERROR(load_model(*model, options, *shared));
  auto loaded = std::make_shared<CudaModelImpl>(shared);
  ASSIGN_OR_RETURN(auto compute, loaded->make_compute({}));
  RETURN_IF_ERROR(warm_up(*compute, shared->model_share));
  return std::shared_ptr<CudaModel>(std::move(loaded));
}

/// CudaModule::create. Exceptions do not cross the module's border.
Result<std::shared_ptr<CudaModel>> create(const ModelSource* model, const CudaOptions& options) {
  try {
    return load(model, options);
  } catch (const std::bad_alloc&) {
    return Status(StatusCode::kResourceExhausted, "out of memory");
  } catch (const std::exception& error) {
    return Status(StatusCode::kInternal, "the CUDA module: {}", error.what());
  }
}

}  // namespace
}  // namespace airlock::cuda

extern "C" __attribute__((visibility("default"))) const airlock::CudaModule* airlock_cuda_module() {
  static const airlock::CudaModule module{{airlock::kModuleAbi, airlock::kVersion},
                                          airlock::cuda::create};
  return &module;
}
