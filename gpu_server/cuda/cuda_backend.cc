#include "gpu_server/cuda/cuda_backend.h"

#include <fmt/format.h>
#include <nvtx3/nvToolsExt.h>

#include <algorithm>
#include <deque>
#include <string>

#include "base/check.h"
#include "gpu_server/cuda/op.h"
#include "gpu_server/cuda/wait.h"

namespace airlock::cuda {

namespace {

/// What was queued is given so long to end once nobody wants it any more, and at least the op's own
/// time: it may be queued behind large ops of other sessions. Then the device hangs.
constexpr std::chrono::seconds kAbandonTimeout{5};

class CudaOp;

class CudaBackend : public Backend {
 public:
  explicit CudaBackend(std::shared_ptr<Shared> shared) : session_(std::move(shared)) {}

  Status open(std::span<const std::span<std::byte>> segments) { return session_.open(segments); }
  const BackendInfo& info() const override { return session_.shared->info; }
  Result<std::unique_ptr<Pending>> prepare(const OpSpec& spec, const Operands& operands,
                                           Deadline deadline) override;

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

class CudaOp : public Pending {
 public:
  CudaOp(CudaBackend& backend, const OpSpec& spec, Deadline deadline)
      : backend_(backend), spec_(spec), deadline_(deadline), work_(backend.session(), spec_) {}
  CudaOp(const CudaOp&) = delete;
  CudaOp& operator=(const CudaOp&) = delete;
  ~CudaOp() override;

  Status take_memory(const Operands& operands, const std::vector<TensorDesc>& results);

  MutableTensorView input(std::size_t index) override {
    CHECK(gives_inputs_ && index < work_.inputs.size() && state_ == State::kPrepared);
    return {work_.inputs[index].data, work_.inputs[index].desc};
  }
  Status submit() override;
  bool done() override {
    backend_.advance();
    return state_ == State::kOver;
  }
  Status wait() override;
  TensorView result(std::size_t index) const override {
    CHECK(state_ == State::kOver && status_.ok() && index < work_.results.size());
    return {work_.results[index].data, work_.results[index].desc};
  }
  OpTiming timing() const override { return timing_; }

  bool waits_for_lane() const { return state_ == State::kQueued; }
  bool over() const { return state_ == State::kOver; }
  void start(Lane& lane);
  void advance();

 private:
  enum class State { kPrepared, kQueued, kRunning, kDraining, kOver };

  Result<HostTensor> take(const TensorDesc& desc);
  void fail(Status status);
  void end();

  CudaBackend& backend_;
  const OpSpec spec_;
  const Deadline deadline_;
  OpWork work_;
  std::vector<HostBuffer> own_;  // the session's pool's
  bool gives_inputs_ = false;
  State state_ = State::kPrepared;
  Lane* lane_ = nullptr;
  std::size_t drained_ = 0;  // streams that were seen empty
  Status status_;
  OpTiming timing_;
  std::uint64_t submit_ns_ = 0;
};

void CudaBackend::advance() {
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

Result<std::unique_ptr<Pending>> CudaBackend::prepare(const OpSpec& spec, const Operands& operands,
                                                      Deadline deadline) {
  RETURN_IF_ERROR(session_.device.health());
  ASSIGN_OR_RETURN(const std::vector<TensorDesc> results, op_results(spec, info().dims));
  RETURN_IF_ERROR(check_operands(operands, spec, results));
  auto op = std::make_unique<CudaOp>(*this, spec, deadline);
  RETURN_IF_ERROR(op->take_memory(operands, results));
  return std::unique_ptr<Pending>(std::move(op));
}

Result<HostTensor> CudaOp::take(const TensorDesc& desc) {
  ASSIGN_OR_RETURN(HostBuffer buffer, backend_.session().pool.take(desc.bytes()));
  own_.push_back(std::move(buffer));
  return HostTensor{own_.back().data(), desc, own_.back().pinned()};
}

Status CudaOp::take_memory(const Operands& operands, const std::vector<TensorDesc>& results) {
  const SessionDevice& session = backend_.session();
  gives_inputs_ = operands.inputs.empty();
  for (std::size_t i = 0; i < spec_.inputs.size(); ++i) {
    if (gives_inputs_) {
      ASSIGN_OR_RETURN(const HostTensor tensor, take(spec_.inputs[i]));
      work_.inputs.push_back(tensor);
    } else {
      auto* data = const_cast<std::byte*>(operands.inputs[i].data);  // never written
      const bool pinned = session.is_pinned(data, spec_.inputs[i].bytes());
      work_.inputs.push_back({data, spec_.inputs[i], pinned});
    }
  }
  for (std::size_t i = 0; i < results.size(); ++i) {
    if (operands.results.empty()) {
      ASSIGN_OR_RETURN(const HostTensor tensor, take(results[i]));
      work_.results.push_back(tensor);
    } else {
      std::byte* data = operands.results[i].data;
      work_.results.push_back({data, results[i], session.is_pinned(data, results[i].bytes())});
    }
  }
  return {};
}

Status CudaOp::submit() {
  CHECK(state_ == State::kPrepared);
  submit_ns_ = now_ns();
  RETURN_IF_ERROR(work_.check());
  state_ = State::kQueued;
  backend_.enqueue(*this);
  backend_.advance();
  return state_ == State::kOver ? status_ : Status();
}

void CudaOp::start(Lane& lane) {
  if (spec_.op == Op::kPing) {
    end();
    return;
  }
  if (Status health = backend_.session().device.health(); !health.ok()) {
    status_ = std::move(health);
    end();
    return;
  }
  lane_ = &lane;
  lane.taken = true;
  state_ = State::kRunning;
  nvtxRangePushA(std::string(name_of(spec_.op)).c_str());
  Status status = work_.start(lane);
  nvtxRangePop();
  if (!status.ok()) fail(std::move(status));
}

// What was queued so far still reads and writes this op's memory.
void CudaOp::fail(Status status) {
  if (status_.ok()) status_ = std::move(status);
  state_ = State::kDraining;
  drained_ = 0;
}

void CudaOp::end() {
  state_ = State::kOver;
  if (lane_ != nullptr) lane_->taken = false;
  lane_ = nullptr;
  const std::uint64_t total_ns = now_ns() - submit_ns_;
  timing_.server_ns = std::min(timing_.server_ns, total_ns);
  timing_.queue_ns = total_ns - timing_.server_ns;
}

void CudaOp::advance() {
  Device& device = backend_.session().device;
  if (state_ == State::kRunning) {
    const Result<bool> over = work_.advance();
    if (!over.ok()) {
      fail(over.status());
    } else if (*over) {
      auto times = work_.device_times();
      if (times.ok()) {
        timing_ = *times;
      } else {
        status_ = times.status();
      }
      end();
    }
  }
  if (state_ != State::kDraining) return;
  SessionDevice& session = backend_.session();
  const std::array streams{session.in.get(), session.compute.get(), session.out.get()};
  while (drained_ < streams.size() && !device.lost()) {
    const Result<bool> empty = is_over(device, cudaStreamQuery(streams[drained_]));
    if (!empty.ok()) break;  // the device is lost
    if (!*empty) return;
    ++drained_;
  }
  end();
}

Status CudaOp::wait() {
  CHECK(state_ != State::kPrepared);
  for (Patience patience(kSpins);; patience.pause()) {
    if (done()) return status_;
    if (deadline_.expired()) {
      return {StatusCode::kDeadlineExceeded,
              fmt::format("{} did not end within its time limit", name_of(spec_.op))};
    }
  }
}

CudaOp::~CudaOp() {
  if (state_ == State::kQueued) backend_.forget(*this);
  const bool under_way = state_ == State::kRunning || state_ == State::kDraining;
  const Deadline deadline =
      Deadline::after(std::max<std::chrono::nanoseconds>(deadline_.remaining(), kAbandonTimeout));
  // The caller's memory must not change hands while the device reads or writes it.
  for (Patience patience(kSpins); under_way && !done(); patience.pause()) {
    if (!deadline.expired()) continue;
    (void)backend_.session().device.lose(fmt::format("{}: {} does not end: the device hangs",
                                                     backend_.session().device.label(),
                                                     name_of(spec_.op)));
  }
  for (HostBuffer& buffer : own_) backend_.session().pool.give_back(std::move(buffer));
}

}  // namespace

Result<std::unique_ptr<Backend>> make_cuda_backend(std::shared_ptr<Shared> shared,
                                                   std::span<const std::span<std::byte>> segments) {
  RETURN_IF_ERROR(shared->device->health());
  auto backend = std::make_unique<CudaBackend>(std::move(shared));
  RETURN_IF_ERROR(backend->open(segments));
  return std::unique_ptr<Backend>(std::move(backend));
}

}  // namespace airlock::cuda
