#include "tee_runner/recording_backend.h"

#include <algorithm>

#include "runtime/model/digest.h"

namespace airlock {

namespace {

/// Adds the time of a scope to `cost_ns`.
class CostTimer {
 public:
  explicit CostTimer(std::uint64_t& cost_ns) : cost_ns_(cost_ns), start_ns_(now_ns()) {}
  ~CostTimer() { cost_ns_ += now_ns() - start_ns_; }
  CostTimer(const CostTimer&) = delete;
  CostTimer& operator=(const CostTimer&) = delete;

 private:
  std::uint64_t& cost_ns_;
  const std::uint64_t start_ns_;
};

}  // namespace

class RecordingBackend::RecordingPending : public ForwardingPending {
 public:
  RecordingPending(RecordingBackend& owner, std::unique_ptr<Pending> inner, TraceRecord record,
                   std::uint64_t prepare_ns)
      : ForwardingPending(std::move(inner)),
        owner_(owner),
        record_(std::move(record)),
        prepare_ns_(prepare_ns) {}

  Status submit() override {
    {
      const CostTimer timer(owner_.cost_ns_);
      record_.seq = owner_.next_seq_++;
      record_.run = owner_.runs_ == 0 ? 0 : owner_.runs_ - 1;
      if (record_.op != Op::kEmbedding && record_.op != Op::kLmHead) {
        if (!record_.weights.empty()) owner_.layer_ = record_.weights[0].layer;
        record_.layer = owner_.layer_;
      }
      for (std::size_t i = 0; i < record_.inputs.size(); ++i)
        owner_.keep(record_, TraceSide::kInput, i, input(i));
    }
    const std::uint64_t now = now_ns();
    if (owner_.origin_ns_ == 0) owner_.origin_ns_ = now - owner_.cost_ns_;
    // A trace has an op as one span: what prepare() took stands right before submit().
    record_.start_ns = now - std::min(now, owner_.origin_ns_ + owner_.cost_ns_ + prepare_ns_);
    return ForwardingPending::submit();
  }
  Status wait() override {
    Status status = ForwardingPending::wait();
    if (status.ok() && !std::exchange(recorded_, true)) record();
    return status;
  }

 private:
  void record() {
    const CostTimer timer(owner_.cost_ns_);
    record_.times = times();
    record_.times.device = {};
    record_.slots_in_use = static_cast<std::uint32_t>(slots_in_use());
    for (std::size_t i = 0; i < record_.outputs.size(); ++i)
      owner_.keep(record_, TraceSide::kOutput, i, result(i));
    if (owner_.status_.ok()) owner_.sink_(std::move(record_));
  }

  RecordingBackend& owner_;
  TraceRecord record_;
  const std::uint64_t prepare_ns_;
  bool recorded_ = false;
};

void RecordingBackend::begin_run() {
  if (origin_ns_ == 0) origin_ns_ = now_ns();
  ++runs_;
}

Result<std::unique_ptr<Pending>> RecordingBackend::prepare(const OpSpec& spec, Deadline deadline) {
  const std::uint64_t start_ns = now_ns();
  ASSIGN_OR_RETURN(auto pending, inner_.prepare(spec, deadline));
  const std::uint64_t prepare_ns = now_ns() - start_ns;
  const CostTimer timer(cost_ns_);
  TraceRecord record = make_record(spec, pending->result_descs(), options_.policy);
  return std::unique_ptr<Pending>(
      std::make_unique<RecordingPending>(*this, std::move(pending), std::move(record), prepare_ns));
}

void RecordingBackend::keep(TraceRecord& record, TraceSide side, std::size_t index,
                            TensorView tensor) {
  if (!status_.ok()) return;
  auto& tensors = side == TraceSide::kInput ? record.inputs : record.outputs;
  if (options_.payload != nullptr) {
    auto digest = options_.payload->add(payload_tensor_name(record.seq, side, index), tensor);
    if (digest.ok()) {
      tensors[index].sha256 = std::move(*digest);
    } else {
      status_ = digest.status();
    }
  } else if (options_.digests) {
    Sha256 digest;
    digest.add(tensor.bytes());
    tensors[index].sha256 = digest.finish();
  }
}

}  // namespace airlock
