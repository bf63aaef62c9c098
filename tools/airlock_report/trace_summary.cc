#include "tools/airlock_report/trace_summary.h"

#include <algorithm>
#include <tuple>
#include <utility>

#include "runtime/trace/trace_reader.h"

namespace airlock::report {
namespace {

void add_to(std::uint64_t& sum, std::uint64_t value) { sum = add_saturating(sum, value); }

std::uint64_t& bytes_of(Bin& bin, Path path) {
  return path == Path::kRing ? bin.ring_bytes : bin.zmq_bytes;
}

/// Keeps the `most` first of `heap` by `before`, as a heap with the last of them on top.
template <typename Before>
void keep_greatest(std::vector<BigOp>& heap, const BigOp& op, std::size_t most, Before before) {
  if (heap.size() == most) {
    if (most == 0 || !before(op, heap.front())) return;
    std::ranges::pop_heap(heap, before);
    heap.pop_back();
  }
  heap.push_back(op);
  std::ranges::push_heap(heap, before);
}

bool more_bytes(const BigOp& a, const BigOp& b) {
  return std::tuple(b.bytes, b.record.total_ns, a.record.seq) <
         std::tuple(a.bytes, a.record.total_ns, b.record.seq);
}

bool more_time(const BigOp& a, const BigOp& b) {
  return std::tuple(b.record.total_ns, b.bytes, a.record.seq) <
         std::tuple(a.record.total_ns, a.bytes, b.record.seq);
}

}  // namespace

std::optional<std::uint64_t> TraceSummary::between_ns() const {
  return between_ops_ns(header.source, ops_time, header.wall_ns);
}

TraceSummarizer::TraceSummarizer(const TraceHeader& header, const SummaryLimits& limits)
    : limits_(limits),
      by_time_(limits.bins),
      by_number_(limits.bins),
      latency_(std::make_unique<PerValue<Path, Histogram>>()) {
  summary_.header = header;
}

TraceSummarizer::~TraceSummarizer() = default;

void TraceSummarizer::add_to_bins(Bins& bins, std::uint64_t begin, std::uint64_t end,
                                  const TraceRecord& record) {
  Bin& first = bins.at(begin);
  add_to(first.ops, 1);
  first.slots_most = std::max<std::uint64_t>(first.slots_most, record.slots_in_use);
  for (const TraceTensor& tensor : record.inputs) {
    if (tensor.path) add_to(bytes_of(first, *tensor.path), tensor.desc.bytes());
  }
  Bin& last = bins.at(end > begin ? end - 1 : end);  // what ends there, not what begins
  for (const TraceTensor& tensor : record.outputs) {
    if (tensor.path) add_to(bytes_of(last, *tensor.path), tensor.desc.bytes());
  }
}

void TraceSummarizer::add(const TraceRecord& record) {
  const std::uint64_t end = record.start_ns + record.total_ns;  // each at most a year (decode_line)
  const std::uint64_t number = summary_.records++;
  summary_.has_times = summary_.has_times || end != 0;
  summary_.ops_time.add(record.start_ns, end);
  summary_.end_ns = std::max(summary_.end_ns, end);

  const BigOp big{record, add_saturating(record.input_bytes(), record.output_bytes())};
  merge(summary_.ops[record.op], OpSnapshot{1,
                                            {record.total_ns, record.tee_ns, record.wire_ns,
                                             record.queue_ns, record.server_ns}});
  for (const TraceTensor& tensor : record.inputs) {
    if (!tensor.path) continue;
    TracePath& path = summary_.paths[*tensor.path];
    add_to(path.input_tensors, 1);
    add_to(path.input_bytes, tensor.desc.bytes());
  }
  for (const TraceTensor& tensor : record.outputs) {
    if (!tensor.path) continue;
    TracePath& path = summary_.paths[*tensor.path];
    add_to(path.output_tensors, 1);
    add_to(path.output_bytes, tensor.desc.bytes());
  }
  if (const auto path = record.slowest_path())
    (*latency_)[*path].record(record.tee_ns + record.wire_ns);
  summary_.slots_most = std::max<std::uint64_t>(summary_.slots_most, record.slots_in_use);
  add_to_bins(by_time_, record.start_ns, end, record);
  add_to_bins(by_number_, number, number, record);
  keep_greatest(summary_.by_bytes, big, limits_.big_ops, more_bytes);
  keep_greatest(summary_.by_time, big, limits_.big_ops, more_time);
}

TraceSummary TraceSummarizer::finish(std::string cut) {
  summary_.cut = std::move(cut);
  for (const Path path : kPaths)
    if (summary_.has_times) summary_.paths[path].latency_ns = (*latency_)[path].snapshot();
  summary_.bins = summary_.has_times ? std::move(by_time_) : std::move(by_number_);
  std::ranges::sort_heap(summary_.by_bytes, more_bytes);
  std::ranges::sort_heap(summary_.by_time, more_time);
  if (!summary_.has_times) summary_.by_time.clear();
  return std::move(summary_);
}

Result<TraceSummary> summarise_trace(const std::string& path, const SummaryLimits& limits) {
  ASSIGN_OR_RETURN(TraceReader reader, TraceReader::open(path));
  TraceSummarizer summarizer(reader.header(), limits);
  for (;;) {
    ASSIGN_OR_RETURN(const std::optional<TraceRecord> record, reader.next());
    if (!record) return summarizer.finish(reader.cut());
    summarizer.add(*record);
  }
}

}  // namespace airlock::report
