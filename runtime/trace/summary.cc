#include "runtime/trace/summary.h"

#include <algorithm>
#include <tuple>
#include <utility>

#include "runtime/trace/trace_reader.h"

namespace airlock {
namespace {

void add_to(std::uint64_t& sum, std::uint64_t value) { sum = add_saturating(sum, value); }

void add_to(OpTimes& sum, const OpTimes& times) {
  visit_times([](std::string_view, std::uint64_t& a, std::uint64_t b) { add_to(a, b); }, sum,
              times);
}

void add_to(DirectionSnapshot& sum, const DirectionSnapshot& other) {
  add_to(sum.messages, other.messages);
  add_to(sum.tensors, other.tensors);
  add_to(sum.bytes, other.bytes);
}

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

void OpSums::merge(const OpSums& other) {
  add_to(calls, other.calls);
  add_to(times, other.times);
  add_to(input_bytes, other.input_bytes);
  add_to(output_bytes, other.output_bytes);
  total_ns.merge(other.total_ns);
}

void PathSums::merge(const PathSums& other) {
  add_to(sent, other.sent);
  add_to(received, other.received);
  latency_ns.merge(other.latency_ns);
}

void TraceSummary::add(const TraceRecord& record, std::uint64_t start_ns, const OpTimes& times) {
  for (OpSums* sums : {&ops[record.op], &all}) {
    add_to(sums->calls, 1);
    add_to(sums->times, times);
    add_to(sums->input_bytes, record.input_bytes());
    add_to(sums->output_bytes, record.output_bytes());
    sums->total_ns.record(times.total_ns);
  }
  const auto add_tensors = [this](const std::vector<TraceTensor>& tensors,
                                  DirectionSnapshot PathSums::*direction) {
    for (const TraceTensor& tensor : tensors) {
      PathSums& path = tensor.path ? paths[*tensor.path] : uncrossed;
      DirectionSnapshot& sums = path.*direction;
      add_to(sums.tensors, 1);
      add_to(sums.bytes, tensor.desc.bytes());
    }
  };
  add_tensors(record.inputs, &PathSums::sent);
  add_tensors(record.outputs, &PathSums::received);
  if (const auto path = record.slowest_path())
    paths[*path].latency_ns.record(times.tee_ns + times.wire_ns);
  busy.add(start_ns, start_ns + times.total_ns);
  slots_most = std::max<std::uint64_t>(slots_most, record.slots_in_use);
}

void TraceSummary::merge(const TraceSummary& other) {
  for (const Op op : kOps) ops[op].merge(other.ops[op]);
  all.merge(other.all);
  for (const Path path : kPaths) paths[path].merge(other.paths[path]);
  uncrossed.merge(other.uncrossed);
  slots_most = std::max(slots_most, other.slots_most);
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
