#include "gpu_server/cuda/cuda_compute.h"

#include <fmt/format.h>
#include <nvtx3/nvToolsExt.h>

#include <algorithm>
#include <deque>
#include <string>
#include <utility>

#include "base/check.h"
#include "gpu_server/cuda/op.h"

namespace airlock::cuda {

namespace {

/// What was queued is given so long to end once nobody wants it any more, and at least the op's own
/// time: it may be queued behind large ops of other sessions. Then the device hangs.
constexpr std::chrono::seconds kAbandonTimeout{5};

class CudaOp;

class CudaCompute : public Compute {
 public:
  explicit CudaCompute(std::shared_ptr<Shared> shared) : session_(std::move(shared)) {}

  Status open(std::span<const std::span<std::byte>> segments) { return session_.open(segments); }
  const BackendInfo& info() const override { return session_.shared->info; }
  Result<std::unique_ptr<Computation>> prepare(const OpSpec& spec, OpMemory memory,
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

class CudaOp : public Computation {
 public:
  CudaOp(CudaCompute& compute, const OpSpec& spec, OpMemory memory, Deadline deadline)
      : compute_(compute), deadline_(deadline), work_(compute.session(), spec, std::move(memory)) {}
  CudaOp(const CudaOp&) = delete;
  CudaOp& operator=(const CudaOp&) = delete;
  ~CudaOp() override;

  Status submit() override;
  bool done() override {
    compute_.advance();
    return state_ == State::kOver;
  }
  Status wait() override;
  OpTimes times() const override { return times_; }

  bool waits_for_lane() const { return state_ == State::kQueued; }
  bool over() const { return state_ == State::kOver; }
  void start(Lane& lane);
  void advance();

 private:
  enum class State { kPrepared, kQueued, kRunning, kDraining, kOver };

  void fail(Status status);
  void end();

  CudaCompute& compute_;
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
                                                          Deadline deadline) {
  RETURN_IF_ERROR(session_.device.health());
  check_memory(spec, memory);
  return std::unique_ptr<Computation>(
      std::make_unique<CudaOp>(*this, spec, std::move(memory), deadline));
}

Status CudaOp::submit() {
  CHECK(state_ == State::kPrepared);
  submit_ns_ = now_ns();
  RETURN_IF_ERROR(work_.check());
  state_ = State::kQueued;
  compute_.enqueue(*this);
  compute_.advance();
  return state_ == State::kOver ? status_ : Status();
}

void CudaOp::start(Lane& lane) {
  if (Status health = compute_.session().device.health(); !health.ok()) {
    status_ = std::move(health);
    end();
    return;
  }
  lane_ = &lane;
  lane.taken = true;
  state_ = State::kRunning;
  nvtxRangePushA(std::string(name_of(work_.op())).c_str());
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
  const DeviceTimes& device = times_.device;
  times_.total_ns = now_ns() - submit_ns_;
  times_.server_ns =
      std::min(device.copy_in_ns + device.compute_ns + device.copy_out_ns, times_.total_ns);
  times_.queue_ns = times_.total_ns - times_.server_ns;
}

void CudaOp::advance() {
  Device& device = compute_.session().device;
  if (state_ == State::kRunning) {
    const Result<bool> over = work_.advance(times_.device);
    if (over.ok() && *over) end();
    if (!over.ok()) fail(over.status());
  }
  if (state_ != State::kDraining) return;
  const auto streams = compute_.session().streams();
  while (drained_ < streams.size() && !device.lost()) {
    const Result<bool> empty = device.is_over(cudaStreamQuery(streams[drained_]));
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
      return {StatusCode::kDeadlineExceeded, "{} did not end within its time limit",
              name_of(work_.op())};
    }
  }
}

CudaOp::~CudaOp() {
  if (state_ == State::kQueued) compute_.forget(*this);
  const bool under_way = state_ == State::kRunning || state_ == State::kDraining;
  const Deadline deadline =
      Deadline::after(std::max<std::chrono::nanoseconds>(deadline_.remaining(), kAbandonTimeout));
  // The memory must not change hands while the device reads or writes it.
  for (Patience patience(kSpins); under_way && !done(); patience.pause()) {
    if (!deadline.expired()) continue;
    (void)compute_.session().device.lose(fmt::format("{}: {} does not end: the device hangs",
                                                     compute_.session().device.label(),
                                                     name_of(work_.op())));
  }
}

}  // namespace

Result<std::unique_ptr<Compute>> make_cuda_compute(std::shared_ptr<Shared> shared,
                                                   std::span<const std::span<std::byte>> segments) {
  RETURN_IF_ERROR(shared->device->health());
  auto compute = std::make_unique<CudaCompute>(std::move(shared));
  RETURN_IF_ERROR(compute->open(segments));
  return std::unique_ptr<Compute>(std::move(compute));
}

}  // namespace airlock::cuda
