#include "runtime/replay/counts.h"

#include <algorithm>

#include "base/saturating.h"

namespace airlock {
namespace {

/// What is not known makes the sum unknown.
void merge_known(std::optional<std::uint64_t>& sum, const std::optional<std::uint64_t>& value) {
  sum = sum && value ? std::optional(add_saturating(*sum, *value)) : std::nullopt;
}

}  // namespace

void ReplaySide::merge(const ReplaySide& other) {
  airlock::merge(sums, other.sums);
  airlock::merge(wall_ns, other.wall_ns);
  merge_known(between_ns, other.between_ns);
  airlock::merge(idle_ns, other.idle_ns);
}

void ReplayCounts::merge(const ReplayCounts& other) {
  recorded.merge(other.recorded);
  replayed.merge(other.replayed);
  airlock::merge(tensors_checked, other.tensors_checked);
  airlock::merge(tensors_differing, other.tensors_differing);
  if (first_difference.empty()) first_difference = other.first_difference;
  if (other.start_ns != 0) {
    start_ns = start_ns == 0 ? other.start_ns : std::min(start_ns, other.start_ns);
  }
  end_ns = std::max(end_ns, other.end_ns);
}

void ReplayTally::begin(std::uint64_t now_ns) {
  const std::lock_guard lock(mutex_);
  counts_.start_ns = counts_.end_ns = now_ns;
  counts_.replayed.sums.busy.begin(now_ns);
}

void ReplayTally::book(const TraceRecord& record, const OpTimes& times, std::uint64_t start_ns) {
  const std::lock_guard lock(mutex_);
  counts_.replayed.sums.add(record, start_ns, times);
  counts_.end_ns = std::max(counts_.end_ns, start_ns + times.total_ns);
  counts_.recorded.sums.add(record);
  if (policy_) {
    PathSnapshot& path = counts_.recorded.sums.paths[policy_->header_path()];
    ++path.sent.messages;
    ++path.received.messages;
  }
}

void ReplayTally::book_idle(std::uint64_t idle_ns) {
  const std::lock_guard lock(mutex_);
  counts_.replayed.idle_ns += idle_ns;
}

void ReplayTally::book_check(const std::string& difference) {
  const std::lock_guard lock(mutex_);
  ++counts_.tensors_checked;
  if (difference.empty()) return;
  if (counts_.tensors_differing++ == 0) counts_.first_difference = difference;
}

void ReplayTally::end_pass() {
  const std::lock_guard lock(mutex_);
  ReplaySide& recorded = counts_.recorded;
  BusyTime& busy = recorded.sums.busy;
  const std::optional<std::uint64_t> wall_ns =
      header_.source == TraceSource::kSynthesised ? std::nullopt : header_.wall_ns;
  // The header's wall also holds the TEE's work after the last op.
  merge(recorded.wall_ns, std::max(wall_ns.value_or(0), busy.wall_ns()));
  merge_known(recorded.between_ns, between_ops_ns(header_.source, busy, wall_ns));
  busy = BusyTime();
}

ReplayCounts ReplayTally::counts() const {
  const std::lock_guard lock(mutex_);
  ReplayCounts counts = counts_;
  ReplaySide& recorded = counts.recorded;
  if (const BusyTime& busy = recorded.sums.busy; busy.begun()) {  // the pass that is under way
    merge(recorded.wall_ns, busy.wall_ns());
    merge_known(recorded.between_ns, between_ops_ns(header_.source, busy, std::nullopt));
  }
  ReplaySide& replayed = counts.replayed;
  replayed.wall_ns = replayed.sums.busy.wall_ns();
  const std::uint64_t not_busy_ns = replayed.wall_ns - replayed.sums.busy.busy_ns();
  replayed.between_ns = not_busy_ns - std::min(replayed.idle_ns, not_busy_ns);
  return counts;
}

}  // namespace airlock
