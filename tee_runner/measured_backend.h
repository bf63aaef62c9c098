#pragma once

#include <memory>

#include "runtime/backend.h"
#include "runtime/stats/op_stats.h"

namespace airlock {

/// Books each op that was waited for in an OpStatsTable, as RemoteBackend does by itself. Backend
/// and table outlive it. One thread.
class MeasuredBackend : public Backend {
 public:
  MeasuredBackend(Backend& inner, OpStatsTable& stats) : inner_(inner), stats_(stats) {}
  const BackendInfo& info() const override { return inner_.info(); }
  Result<std::unique_ptr<Pending>> prepare(const OpSpec& spec, Deadline deadline) override;

 private:
  Backend& inner_;
  OpStatsTable& stats_;
};

}  // namespace airlock
