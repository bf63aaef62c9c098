#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/enum.h"
#include "base/saturating.h"
#include "base/status.h"
#include "runtime/op_times.h"
#include "runtime/stats/op_stats.h"
#include "runtime/stats/transport_stats.h"
#include "runtime/trace/busy_time.h"
#include "runtime/trace/passes.h"
#include "runtime/trace/trace.h"

namespace airlock {

/// Calls of one op, or of several, added up.
struct OpSums : OpSnapshot {
  std::uint64_t input_bytes = 0;
  std::uint64_t output_bytes = 0;
  // How long each call took: their total_ns.
  HistogramSnapshot call_ns;
  std::uint64_t bytes() const { return add_saturating(input_bytes, output_bytes); }
  template <typename Each, typename... Sums>
  static void visit(Each&& each, Sums&... sums) {
    OpSnapshot::visit(each, sums...);
    each("input_bytes", sums.input_bytes...);
    each("output_bytes", sums.output_bytes...);
    each("call_ns", sums.call_ns...);
  }
};

/// Ops of a trace added up: the one summary of recorded ops and of replayed ones, for show, diff,
/// export, replay and report. Memory does not grow with the trace, and sums stop at 2^64 - 1, as a
/// trace's times may be anything. A plain value.
struct TraceSummary {
  PerValue<Op, OpSums> ops;
  OpSums all;
  // As the runner counts: inputs are sent, outputs received; an op's latency is on its slowest
  // path. Messages are not counted: a record does not name its header's path.
  TransportSnapshot paths;
  // Of tensors that crossed nothing.
  PathSnapshot uncrossed;
  // Time in which an op was under way. Merging leaves it out: two runs have no common clock.
  BusyTime busy;

  void add(const TraceRecord& record) { add(record, record.start_ns, record.times); }
  /// The record's op as it went another time.
  void add(const TraceRecord& record, std::uint64_t start_ns, const OpTimes& times);
  template <typename Each, typename... Summaries>
  static void visit(Each&& each, Summaries&... summaries) {
    each("ops", summaries.ops...);
    each("all", summaries.all...);
    each("paths", summaries.paths...);
    each("uncrossed", summaries.uncrossed...);
  }
};

/// Of the ops that took longest or moved most, as many are kept.
inline constexpr std::size_t kBigOps = 15;

/// The summary of a trace file.
struct TraceFileSummary : TraceSummary {
  TraceFileSummary(std::string path, TraceHeader trace_header)
      : file(std::move(path)), header(std::move(trace_header)), walker_(header) {}

  std::string file;
  TraceHeader header;
  // As TraceReader::cut().
  std::string cut;
  // The greatest first; among equals the one that took longer or moved more, then the earlier.
  std::vector<TraceRecord> by_time;
  std::vector<TraceRecord> by_bytes;
  // Those that are over.
  PassTable passes;

  /// The pass that is over because the record begins another.
  std::optional<TracePass> add(const TraceRecord& record);
  /// The trace is over: its last pass, once.
  std::optional<TracePass> end();
  /// Whether anything was timed.
  bool has_times() const { return busy.end_ns() != 0; }
  /// The TEE's time between ops; nullopt where it is not known.
  std::optional<std::uint64_t> between_ns() const {
    return between_ops_ns(header.source, busy, header.wall_ns);
  }

 private:
  std::optional<TracePass> take(std::optional<TracePass> over);
  PassWalker walker_;
};

/// Reads the trace at `path` to its end, and shows each record to `each` and each pass, once it is
/// over, to `each_pass`, where they are given. kInvalidInput as TraceReader gives it.
Result<TraceFileSummary> summarise_trace(
    const std::string& path, const std::function<void(const TraceRecord&)>& each = {},
    const std::function<void(const TracePass&)>& each_pass = {});

}  // namespace airlock
