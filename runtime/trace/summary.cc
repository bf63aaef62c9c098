#include "runtime/trace/summary.h"

#include <algorithm>
#include <tuple>
#include <utility>

#include "runtime/trace/trace_reader.h"

namespace airlock {
namespace {

bool took_longer(const TraceRecord& a, const TraceRecord& b) {
  return std::tuple(b.times.total_ns, b.bytes(), a.seq) <
         std::tuple(a.times.total_ns, a.bytes(), b.seq);
}

bool moved_more(const TraceRecord& a, const TraceRecord& b) {
  return std::tuple(b.bytes(), b.times.total_ns, a.seq) <
         std::tuple(a.bytes(), a.times.total_ns, b.seq);
}

template <typename Before>
void keep_greatest(std::vector<TraceRecord>& kept, const TraceRecord& record, Before before) {
  if (kept.size() == kBigOps) {
    if (!before(record, kept.back())) return;
    kept.pop_back();
  }
  kept.insert(std::ranges::upper_bound(kept, record, before), record);
}

}  // namespace

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

void TraceSummary::add(const TraceRecord& record, std::uint64_t start_ns, const OpTimes& times) {
  for (OpSums* sums : {&ops[record.op], &all}) {
    merge<OpSnapshot>(*sums, OpSnapshot{1, times});
    merge(sums->input_bytes, record.input_bytes());
    merge(sums->output_bytes, record.output_bytes());
    sums->call_ns.record(times.total_ns);
  }
  const auto add_tensors = [this](const std::vector<TraceTensor>& tensors,
                                  DirectionSnapshot PathSnapshot::*direction) {
    for (const TraceTensor& tensor : tensors) {
      PathSnapshot& path = tensor.path ? paths[*tensor.path] : uncrossed;
      merge(path.*direction, DirectionSnapshot{0, 1, tensor.desc.bytes()});
    }
  };
  add_tensors(record.inputs, &PathSnapshot::sent);
  add_tensors(record.outputs, &PathSnapshot::received);
  if (const auto path = record.slowest_path())
    paths[*path].latency_ns.record(times.tee_ns + times.wire_ns);
  busy.add(start_ns, start_ns + times.total_ns);
}

void TraceFileSummary::add(const TraceRecord& record) {
  TraceSummary::add(record);
  keep_greatest(by_time, record, took_longer);
  keep_greatest(by_bytes, record, moved_more);
}

Result<TraceFileSummary> summarise_trace(const std::string& path,
                                         const std::function<void(const TraceRecord&)>& each) {
  ASSIGN_OR_RETURN(TraceReader reader, TraceReader::open(path));
  TraceFileSummary summary(path, reader.header());
  for (;;) {
    ASSIGN_OR_RETURN(const std::optional<TraceRecord> record, reader.next());
    if (!record) break;
    summary.add(*record);
    if (each) each(*record);
  }
  summary.cut = reader.cut();
  return summary;
}

}  // namespace airlock
