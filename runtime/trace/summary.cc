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

std::optional<TracePass> TraceFileSummary::add(const TraceRecord& record) {
  TraceSummary::add(record);
  keep_greatest(by_time, record, took_longer);
  keep_greatest(by_bytes, record, moved_more);
  return take(walker_.add(record));
}

std::optional<TracePass> TraceFileSummary::end() { return take(walker_.end()); }

std::optional<TracePass> TraceFileSummary::take(std::optional<TracePass> over) {
  if (over) passes[over->kind].add(*over);
  return over;
}

Result<TraceFileSummary> summarise_trace(const std::string& path,
                                         const std::function<void(const TraceRecord&)>& each,
                                         const std::function<void(const TracePass&)>& each_pass) {
  ASSIGN_OR_RETURN(TraceReader reader, TraceReader::open(path));
  TraceFileSummary summary(path, reader.header());
  const auto show = [&](const std::optional<TracePass>& pass) {
    if (pass && each_pass) each_pass(*pass);
  };
  for (;;) {
    ASSIGN_OR_RETURN(const std::optional<TraceRecord> record, reader.next());
    if (!record) break;
    show(summary.add(*record));
    if (each) each(*record);
  }
  show(summary.end());
  summary.cut = reader.cut();
  return summary;
}

}  // namespace airlock
