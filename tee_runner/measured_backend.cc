#include "tee_runner/measured_backend.h"

#include <algorithm>
#include <utility>

namespace airlock {

namespace {

class MeasuredPending : public Pending {
 public:
  MeasuredPending(std::unique_ptr<Pending> inner, OpStats& stats)
      : inner_(std::move(inner)), stats_(stats) {}

  MutableTensorView input(std::size_t index) override { return inner_->input(index); }
  Status submit() override {
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
    if (status.ok()) book();
    return status;
  }
  TensorView result(std::size_t index) const override { return inner_->result(index); }
  OpTiming timing() const override { return inner_->timing(); }

 private:
  void book() {
    const OpTiming timing = inner_->timing();
    const std::uint64_t total_ns = std::max(spent_ns_, timing.queue_ns + timing.server_ns);
    OpTimes times;
    times.total_ns = total_ns;
    times.wire_ns = total_ns - timing.queue_ns - timing.server_ns;
    times.queue_ns = timing.queue_ns;
    times.server_ns = timing.server_ns;
    merge(stats_, OpSnapshot{1, times});
  }

  std::unique_ptr<Pending> inner_;
  OpStats& stats_;
  std::uint64_t spent_ns_ = 0;
};

class Measured : public MeasuredBackend {
 public:
  Measured(Backend& inner, OpStatsTable& stats) : inner_(inner), stats_(stats) {}

  const BackendInfo& info() const override { return inner_.info(); }
  Result<std::unique_ptr<Pending>> prepare(const OpSpec& spec, const Operands& operands,
                                           Deadline deadline) override {
    ASSIGN_OR_RETURN(auto pending, inner_.prepare(spec, operands, deadline));
    return std::unique_ptr<Pending>(
        std::make_unique<MeasuredPending>(std::move(pending), stats_[spec.op]));
  }

 private:
  Backend& inner_;
  OpStatsTable& stats_;
};

}  // namespace

std::unique_ptr<MeasuredBackend> MeasuredBackend::create(Backend& inner, OpStatsTable& stats) {
  return std::make_unique<Measured>(inner, stats);
}

}  // namespace airlock
