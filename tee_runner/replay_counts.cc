#include "tee_runner/replay_counts.h"

#include <algorithm>

#include "base/saturating.h"

namespace airlock {
namespace {

void add(std::uint64_t& sum, std::uint64_t value) { sum = add_saturating(sum, value); }

/// What is not known makes the sum unknown.
void add(std::optional<std::uint64_t>& sum, const std::optional<std::uint64_t>& value) {
  sum = sum && value ? std::optional(add_saturating(*sum, *value)) : std::nullopt;
}

void add(ReplaySide& sum, const ReplaySide& other) {
  merge(sum.ops, other.ops);
  add(sum.wall_ns, other.wall_ns);
  add(sum.between_ns, other.between_ns);
  add(sum.idle_ns, other.idle_ns);
}

}  // namespace

OpSnapshot ReplaySide::sum() const {
  OpSnapshot sum;
  for (const OpSnapshot& op : ops) merge(sum, op);
  return sum;
}

void ReplayCounts::merge(const ReplayCounts& other) {
  add(ops, other.ops);
  add(bytes, other.bytes);
  add(recorded, other.recorded);
  add(replayed, other.replayed);
  airlock::merge(total_ns, other.total_ns);
  airlock::merge(recorded_paths, other.recorded_paths);
  add(tensors_checked, other.tensors_checked);
  add(tensors_differing, other.tensors_differing);
  if (first_difference.empty()) first_difference = other.first_difference;
  if (other.start_ns != 0) {
    start_ns = start_ns == 0 ? other.start_ns : std::min(start_ns, other.start_ns);
  }
  end_ns = std::max(end_ns, other.end_ns);
}

ReplayTally::ReplayTally(const TraceHeader& header)
    : crosses_(header.backend == "remote"),
      header_path_(header.path_limit_bytes > 0 && header.ring_slots > 0 ? Path::kRing : Path::kZmq),
      source_(header.source),
      recorded_wall_ns_(header.source == TraceSource::kSynthesised ? std::nullopt
                                                                   : header.wall_ns) {}

void ReplayTally::begin(std::uint64_t now_ns) {
  const std::lock_guard lock(mutex_);
  counts_.start_ns = counts_.end_ns = now_ns;
  replayed_.begin(now_ns);
}

void ReplayTally::book(const TraceRecord& record, const OpTimes& times, std::uint64_t start_ns) {
  const std::lock_guard lock(mutex_);
  const std::uint64_t end_ns = start_ns + times.total_ns;
  ++counts_.ops;
  add(counts_.bytes, record.input_bytes());
  add(counts_.bytes, record.output_bytes());
  merge(counts_.replayed.ops[record.op], OpSnapshot{1, times});
  histograms_[record.op].record(times.total_ns);
  replayed_.add(start_ns, end_ns);
  counts_.end_ns = std::max(counts_.end_ns, end_ns);
  book_recorded(record);
}

void ReplayTally::book_recorded(const TraceRecord& record) {
  merge(counts_.recorded.ops[record.op], OpSnapshot{1,
                                                    {record.total_ns, record.tee_ns, record.wire_ns,
                                                     record.queue_ns, record.server_ns}});
  recorded_.add(record.start_ns, record.start_ns + record.total_ns);
  if (!crosses_) return;
  PathFlow& header = counts_.recorded_paths[header_path_];
  ++header.sent.messages;
  ++header.received.messages;
  const auto book_tensors = [this](const std::vector<TraceTensor>& tensors,
                                   DirectionSnapshot PathFlow::*direction) {
    for (const TraceTensor& tensor : tensors) {
      if (!tensor.path) continue;
      DirectionSnapshot& flow = counts_.recorded_paths[*tensor.path].*direction;
      ++flow.tensors;
      add(flow.bytes, tensor.desc.bytes());
    }
  };
  book_tensors(record.inputs, &PathFlow::sent);
  book_tensors(record.outputs, &PathFlow::received);
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
  // The header's wall also holds the TEE's work after the last op.
  const std::uint64_t wall_ns = std::max(recorded_wall_ns_.value_or(0), recorded_.wall_ns());
  add(counts_.recorded.wall_ns, wall_ns);
  add(counts_.recorded.between_ns, between_ops_ns(source_, recorded_, recorded_wall_ns_));
  recorded_ = BusyTime();
}

ReplayCounts ReplayTally::counts() const {
  const std::lock_guard lock(mutex_);
  ReplayCounts counts = counts_;
  if (recorded_.begun()) {  // the pass that is under way
    add(counts.recorded.wall_ns, recorded_.wall_ns());
    add(counts.recorded.between_ns, between_ops_ns(source_, recorded_, std::nullopt));
  }
  const std::uint64_t not_busy_ns = replayed_.wall_ns() - replayed_.busy_ns();
  counts.replayed.wall_ns = replayed_.wall_ns();
  counts.replayed.between_ns = not_busy_ns - std::min(counts.replayed.idle_ns, not_busy_ns);
  counts.total_ns = snapshot_of(histograms_);
  return counts;
}

}  // namespace airlock
