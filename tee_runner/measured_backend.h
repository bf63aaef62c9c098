#pragma once

#include <memory>
#include <utility>

#include "runtime/backend.h"
#include "runtime/stats/op_stats.h"

namespace airlock {

/// Books each op that was waited for in an OpStatsTable, as RemoteBackend does by itself. Backend
/// and table outlive it. One thread.
class MeasuredBackend : public Backend {
 public:
  MeasuredBackend(Backend& inner, OpStatsTable& stats) : inner_(inner), stats_(stats) {}
  const BackendInfo& info() const override { return inner_.info(); }
  Result<std::unique_ptr<Pending>> prepare(const OpSpec& spec, Deadline deadline) override {
    ASSIGN_OR_RETURN(auto pending, inner_.prepare(spec, deadline));
    return std::unique_ptr<Pending>(
        std::make_unique<MeasuredPending>(std::move(pending), stats_[spec.op]));
  }

 private:
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

  Backend& inner_;
  OpStatsTable& stats_;
};

}  // namespace airlock
