#include "runtime/trace/busy_time.h"

#include <algorithm>

namespace airlock {

void BusyTime::begin(std::uint64_t at_ns) {
  begun_ = true;
  first_ns_ = last_ns_ = start_ns_ = at_ns;
}

void BusyTime::add(std::uint64_t start_ns, std::uint64_t end_ns) {
  if (!begun_) begin(start_ns);
  in_order_ = in_order_ && start_ns >= start_ns_;
  start_ns_ = start_ns;
  const std::uint64_t from = std::max(start_ns, last_ns_);
  if (end_ns > from) busy_ns_ += end_ns - from;
  last_ns_ = std::max(last_ns_, end_ns);
}

std::optional<std::uint64_t> between_ops_ns(TraceSource source, const BusyTime& ops,
                                            std::optional<std::uint64_t> wall_ns) {
  if (source == TraceSource::kSynthesised || !ops.in_order()) return std::nullopt;
  if (!wall_ns && source == TraceSource::kRecorded) wall_ns = ops.wall_ns();
  if (!wall_ns || *wall_ns < ops.busy_ns()) return std::nullopt;
  return *wall_ns - ops.busy_ns();
}

}  // namespace airlock
