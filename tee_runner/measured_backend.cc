#include "tee_runner/measured_backend.h"

#include <utility>

namespace airlock {

namespace {

class MeasuredPending : public ForwardingPending {
 public:
  MeasuredPending(std::unique_ptr<Pending> inner, OpStats& stats)
      : ForwardingPending(std::move(inner)), stats_(stats) {}
  Status wait() override {
    Status status = ForwardingPending::wait();
    if (status.ok() && !std::exchange(booked_, true)) merge(stats_, OpSnapshot{1, times()});
    return status;
  }

 private:
  OpStats& stats_;
  bool booked_ = false;
};

}  // namespace

Result<std::unique_ptr<Pending>> MeasuredBackend::prepare(const OpSpec& spec, Deadline deadline) {
  ASSIGN_OR_RETURN(auto pending, inner_.prepare(spec, deadline));
  return std::unique_ptr<Pending>(
      std::make_unique<MeasuredPending>(std::move(pending), stats_[spec.op]));
}

}  // namespace airlock
