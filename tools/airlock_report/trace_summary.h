#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"
#include "runtime/stats/op_stats.h"
#include "runtime/trace/between.h"
#include "runtime/trace/trace.h"
#include "tools/airlock_report/bins.h"

namespace airlock::report {

/// One op as the tables of the greatest show it.
struct BigOp {
  TraceRecord record;
  std::uint64_t bytes = 0;  // inputs and outputs
};

/// What went by one path.
struct TracePath {
  std::uint64_t input_tensors = 0;
  std::uint64_t input_bytes = 0;
  std::uint64_t output_tensors = 0;
  std::uint64_t output_bytes = 0;
  HistogramSnapshot latency_ns;  // of an op: total less queue and server (docs/STATS.md)
};

/// A trace in bounded memory, however long it is. Sums saturate. A plain value.
struct TraceSummary {
  TraceHeader header;
  std::string cut;  // what is missing; empty where the trace is whole
  std::uint64_t records = 0;
  OpSnapshotTable ops;
  PerValue<Path, TracePath> paths;
  bool has_times = false;    // any that is not 0
  BusyTime ops_time;         // in which one was under way
  std::uint64_t end_ns = 0;  // of the op that ended last
  std::uint64_t slots_most = 0;
  /// Over time, or over ops by their number where has_times is false. Inputs count at the submit,
  /// outputs at the checked reply.
  Bins bins{1};
  std::vector<BigOp> by_bytes;  // the greatest first
  std::vector<BigOp> by_time;

  /// Of all runs: the header's, else up to the last op's end.
  std::uint64_t wall_ns() const { return header.wall_ns.value_or(end_ns); }
  /// No op was under way: the TEE's own work; nullopt where it is not known.
  std::optional<std::uint64_t> between_ns() const;
};

struct SummaryLimits {
  std::size_t bins = 512;
  std::size_t big_ops = 15;
};

/// Adds up a trace op by op. One thread.
class TraceSummarizer {
 public:
  TraceSummarizer(const TraceHeader& header, const SummaryLimits& limits);
  ~TraceSummarizer();
  void add(const TraceRecord& record);
  TraceSummary finish(std::string cut);

 private:
  void add_to_bins(Bins& bins, std::uint64_t begin, std::uint64_t end, const TraceRecord& record);
  SummaryLimits limits_;
  TraceSummary summary_;
  Bins by_time_;
  Bins by_number_;
  std::unique_ptr<PerValue<Path, Histogram>> latency_;
};

/// Streams the trace at `path`. kInvalidInput, naming file and line, for one that is bad.
Result<TraceSummary> summarise_trace(const std::string& path, const SummaryLimits& limits);

}  // namespace airlock::report
