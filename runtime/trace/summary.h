#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/enum.h"
#include "base/saturating.h"
#include "base/status.h"
#include "runtime/op_times.h"
#include "runtime/stats/histogram.h"
#include "runtime/stats/transport_stats.h"
#include "runtime/trace/between.h"
#include "runtime/trace/trace.h"

namespace airlock {

/// Calls of one op, or of several, added up.
struct OpSums {
  std::uint64_t calls = 0;
  OpTimes times;
  std::uint64_t input_bytes = 0;
  std::uint64_t output_bytes = 0;
  // How long each call took.
  HistogramSnapshot total_ns;
  std::uint64_t bytes() const { return add_saturating(input_bytes, output_bytes); }
  void merge(const OpSums& other);
};

/// What went by one path, as the runner sees it: inputs are sent, outputs are received.
struct PathSums {
  DirectionSnapshot sent;
  DirectionSnapshot received;
  // Of the ops of which this is the slowest path: total_ns less queue_ns and server_ns.
  HistogramSnapshot latency_ns;
  std::uint64_t tensors() const { return add_saturating(sent.tensors, received.tensors); }
  std::uint64_t bytes() const { return add_saturating(sent.bytes, received.bytes); }
  void merge(const PathSums& other);
};

/// Ops of a trace added up: the one summary of recorded ops and of replayed ones, for show, diff,
/// export, replay and report. Memory does not grow with the trace, and sums stop at 2^64 - 1, as a
/// trace's times may be anything. A plain value.
struct TraceSummary {
  PerValue<Op, OpSums> ops;
  OpSums all;
  // Messages are not counted here: a record does not name its header's path.
  PerValue<Path, PathSums> paths;
  // Of tensors that crossed nothing.
  PathSums uncrossed;
  // Time in which an op was under way.
  BusyTime busy;
  // Most ring slots in use at any submit.
  std::uint64_t slots_most = 0;

  void add(const TraceRecord& record) { add(record, record.start_ns, record.times); }
  /// The record's op as it went another time.
  void add(const TraceRecord& record, std::uint64_t start_ns, const OpTimes& times);
  /// Adds all but `busy`: spans of two runs have no common clock.
  void merge(const TraceSummary& other);
};

/// Of the ops that took longest or moved most, as many are kept.
inline constexpr std::size_t kBigOps = 15;

/// The summary of a trace file.
struct TraceFileSummary : TraceSummary {
  TraceFileSummary(std::string path, TraceHeader trace_header)
      : file(std::move(path)), header(std::move(trace_header)) {}

  std::string file;
  TraceHeader header;
  // As TraceReader::cut().
  std::string cut;
  // The greatest first; among equals the one that took longer or moved more, then the earlier.
  std::vector<TraceRecord> by_time;
  std::vector<TraceRecord> by_bytes;

  void add(const TraceRecord& record);
  /// Whether anything was timed.
  bool has_times() const { return busy.end_ns() != 0; }
  /// The TEE's time between ops; nullopt where it is not known.
  std::optional<std::uint64_t> between_ns() const {
    return between_ops_ns(header.source, busy, header.wall_ns);
  }
};

/// Reads the trace at `path` to its end, and shows each record to `each`, where that is given.
/// kInvalidInput as TraceReader gives it.
Result<TraceFileSummary> summarise_trace(const std::string& path,
                                         const std::function<void(const TraceRecord&)>& each = {});

}  // namespace airlock
