#include "tee_runner/recording_backend.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "runtime/model/digest.h"
#include "runtime/trace/synthesise.h"

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

class Recorder : public RecordingBackend {
 public:
  Recorder(Backend& inner, const RecordingOptions& options, Sink sink)
      : inner_(inner), options_(options), sink_(std::move(sink)) {}

  const BackendInfo& info() const override { return inner_.info(); }
  Result<std::unique_ptr<Pending>> prepare(const OpSpec& spec, const Operands& operands,
                                           Deadline deadline) override;
  void begin_run() override {
    if (origin_ns_ == 0) origin_ns_ = now_ns();
    ++runs_;
  }
  std::uint64_t cost_ns() const override { return cost_ns_; }
  const Status& status() const override { return status_; }

  std::uint64_t& cost() { return cost_ns_; }
  void number(TraceRecord& record);
  void keep(TraceRecord& record, TraceSide side, std::size_t index, TensorView tensor);
  void record(TraceRecord record) {
    if (status_.ok()) sink_(std::move(record));
  }
  /// Of the trace's clock.
  std::uint64_t elapsed_ns() {
    if (origin_ns_ == 0) origin_ns_ = now_ns() - cost_ns_;
    const std::uint64_t now = now_ns();
    return now - std::min(now, origin_ns_ + cost_ns_);
  }

 private:
  Backend& inner_;
  const RecordingOptions options_;
  const Sink sink_;
  std::uint64_t cost_ns_ = 0;
  std::uint64_t origin_ns_ = 0;
  std::uint64_t runs_ = 0;
  std::uint64_t next_seq_ = 0;
  std::optional<std::uint16_t> layer_;  // of the last op with weights
  Status status_;
};

class RecordingPending : public Pending {
 public:
  RecordingPending(Recorder& owner, std::unique_ptr<Pending> inner, TraceRecord record,
                   std::span<const TensorView> inputs)
      : owner_(owner),
        inner_(std::move(inner)),
        record_(std::move(record)),
        inputs_(inputs.begin(), inputs.end()) {}

  MutableTensorView input(std::size_t index) override { return inner_->input(index); }
  Status submit() override {
    {
      const CostTimer timer(owner_.cost());
      owner_.number(record_);
      for (std::size_t i = 0; i < record_.inputs.size(); ++i) {
        owner_.keep(record_, TraceSide::kInput, i,
                    inputs_.empty() ? TensorView(inner_->input(i)) : inputs_[i]);
      }
    }
    record_.start_ns = owner_.elapsed_ns();
    const std::uint64_t start_ns = now_ns();
    Status status = inner_->submit();
    spent_ns_ += now_ns() - start_ns;
    return status;
  }
  bool done() override { return inner_->done(); }
  Status wait() override {
    const std::uint64_t start_ns = now_ns();
    Status status = inner_->wait();
    spent_ns_ += now_ns() - start_ns;
    if (status.ok() && !std::exchange(recorded_, true)) book();
    return status;
  }
  TensorView result(std::size_t index) const override { return inner_->result(index); }
  OpTiming timing() const override { return inner_->timing(); }

 private:
  void book() {
    const CostTimer timer(owner_.cost());
    const OpTiming timing = inner_->timing();
    const std::uint64_t parts = timing.tee_ns + timing.queue_ns + timing.server_ns;
    record_.times.total_ns = std::max(timing.total_ns != 0 ? timing.total_ns : spent_ns_, parts);
    record_.times.tee_ns = timing.tee_ns;
    record_.times.queue_ns = timing.queue_ns;
    record_.times.server_ns = timing.server_ns;
    record_.times.wire_ns = record_.times.total_ns - parts;
    record_.slots_in_use = static_cast<std::uint32_t>(timing.slots_in_use);
    for (std::size_t i = 0; i < record_.outputs.size(); ++i) {
      owner_.keep(record_, TraceSide::kOutput, i, inner_->result(i));
    }
    owner_.record(std::move(record_));
  }

  Recorder& owner_;
  std::unique_ptr<Pending> inner_;
  TraceRecord record_;
  std::vector<TensorView> inputs_;  // where the caller gave some
  std::uint64_t spent_ns_ = 0;
  bool recorded_ = false;
};

Result<std::unique_ptr<Pending>> Recorder::prepare(const OpSpec& spec, const Operands& operands,
                                                   Deadline deadline) {
  ASSIGN_OR_RETURN(auto pending, inner_.prepare(spec, operands, deadline));
  const CostTimer timer(cost_ns_);
  TraceRecord record = make_record(spec, std::nullopt, inner_.info().dims, options_.policy);
  return std::unique_ptr<Pending>(std::make_unique<RecordingPending>(
      *this, std::move(pending), std::move(record), operands.inputs));
}

void Recorder::number(TraceRecord& record) {
  record.seq = next_seq_++;
  record.run = runs_ == 0 ? 0 : runs_ - 1;
  if (record.op == Op::kEmbedding || record.op == Op::kLmHead) return;
  if (!record.weights.empty()) layer_ = record.weights[0].layer;
  record.layer = layer_;
}

void Recorder::keep(TraceRecord& record, TraceSide side, std::size_t index, TensorView tensor) {
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

}  // namespace

std::unique_ptr<RecordingBackend> RecordingBackend::create(Backend& inner,
                                                           const RecordingOptions& options,
                                                           Sink sink) {
  return std::make_unique<Recorder>(inner, options, std::move(sink));
}

}  // namespace airlock
