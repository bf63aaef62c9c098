#include "tools/airlock_trace/summary.h"

#include <algorithm>
#include <tuple>

#include "runtime/stats/histogram.h"
#include "runtime/trace/trace_reader.h"
#include "tools/airlock_trace/text.h"

namespace airlock::trace {
namespace {

void take_percentiles(const Histogram& histogram, OpTotals& totals) {
  const HistogramSnapshot snapshot = histogram.snapshot();
  totals.p50_ns = snapshot.percentile(0.5);
  totals.p99_ns = snapshot.percentile(0.99);
  totals.max_ns = snapshot.max;
}

std::tuple<std::uint64_t, std::uint64_t> weight(const BigOp& op) { return {op.total_ns, op.bytes}; }

}  // namespace

struct Summariser::State {
  TraceSummary summary;
  std::array<Histogram, kTracedOps.size()> latency;
  Histogram latency_of_all;
};

std::size_t traced_op_index(Op op) {
  return static_cast<std::size_t>(std::ranges::find(kTracedOps, op) - kTracedOps.begin());
}

std::size_t path_row(const std::optional<Path>& path) {
  if (!path) return 2;
  return *path == Path::kRing ? 0 : 1;
}

void OpTotals::add(const TraceRecord& record) {
  ++calls;
  input_bytes = add_capped(input_bytes, record.input_bytes());
  output_bytes = add_capped(output_bytes, record.output_bytes());
  total_ns = add_capped(total_ns, record.times.total_ns);
  tee_ns = add_capped(tee_ns, record.times.tee_ns);
  wire_ns = add_capped(wire_ns, record.times.wire_ns);
  queue_ns = add_capped(queue_ns, record.times.queue_ns);
  server_ns = add_capped(server_ns, record.times.server_ns);
}

std::optional<std::uint64_t> TraceSummary::between_ns() const {
  return between_ops_ns(header.source, ops_time, header.wall_ns);
}

std::uint64_t TraceSummary::whole_ns() const {
  if (has_wall()) return std::max(*header.wall_ns, under_way_ns());
  return add_capped(under_way_ns(), between_ns().value_or(0));
}

Summariser::Summariser() : state_(std::make_unique<State>()) {}
Summariser::~Summariser() = default;

void Summariser::add(const TraceRecord& record) {
  TraceSummary& summary = state_->summary;
  const std::size_t row = traced_op_index(record.op);
  if (row < kTracedOps.size()) {
    summary.ops[row].add(record);
    state_->latency[row].record(record.times.total_ns);
  }
  summary.all.add(record);
  state_->latency_of_all.record(record.times.total_ns);
  for (const TraceTensor& tensor : record.inputs) {
    PathTotals& path = summary.paths[path_row(tensor.path)];
    ++path.tensors;
    path.input_bytes = add_capped(path.input_bytes, tensor.desc.bytes());
  }
  for (const TraceTensor& tensor : record.outputs) {
    PathTotals& path = summary.paths[path_row(tensor.path)];
    ++path.tensors;
    path.output_bytes = add_capped(path.output_bytes, tensor.desc.bytes());
  }
  summary.ops_time.add(record.start_ns, record.start_ns + record.times.total_ns);
  BigOp big{record.seq,
            record.run,
            record.op,
            record.layer,
            {},
            record.input_bytes() + record.output_bytes(),
            record.times.total_ns,
            record.slowest_path()};
  auto& biggest = summary.biggest;
  if (biggest.size() == kBigOps && weight(biggest.back()) >= weight(big)) return;
  big.shapes = shapes_text(record);
  const auto place = std::ranges::find_if(
      biggest, [&](const BigOp& other) { return weight(other) < weight(big); });
  biggest.insert(place, std::move(big));
  if (biggest.size() > kBigOps) biggest.pop_back();
}

TraceSummary Summariser::finish() const {
  TraceSummary summary = state_->summary;
  for (std::size_t i = 0; i < kTracedOps.size(); ++i) {
    take_percentiles(state_->latency[i], summary.ops[i]);
  }
  take_percentiles(state_->latency_of_all, summary.all);
  return summary;
}

std::string shapes_text(const TraceRecord& record) {
  std::string text;
  for (const TraceTensor& tensor : record.inputs) (text += desc_text(tensor.desc)) += ' ';
  text += "->";
  for (const TraceTensor& tensor : record.outputs) (text += ' ') += desc_text(tensor.desc);
  return text;
}

Result<TraceSummary> summarise(const std::string& path) {
  ASSIGN_OR_RETURN(TraceReader reader, TraceReader::open(path));
  Summariser summariser;
  for (;;) {
    ASSIGN_OR_RETURN(const std::optional<TraceRecord> record, reader.next());
    if (!record) break;
    summariser.add(*record);
  }
  TraceSummary summary = summariser.finish();
  summary.file = path;
  summary.header = reader.header();
  summary.cut = reader.cut();
  return summary;
}

}  // namespace airlock::trace
