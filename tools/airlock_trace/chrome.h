#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "runtime/json/writer.h"
#include "runtime/trace/trace.h"
#include "tools/airlock_trace/output.h"

namespace airlock::trace {

inline constexpr int kRunnerPid = 1;
inline constexpr int kServerPid = 2;
inline constexpr std::size_t kMaxLanes = 1024;
/// What an op of a trace without times is drawn as.
inline constexpr std::uint64_t kNominalOpNs = 1000;

/// Writes a trace as Trace Event Format (JSON object form), for ui.perfetto.dev and
/// chrome://tracing. Runner and server are two processes; an op lies in the first lane (thread)
/// that is free at its start, with the parts of its time nested in it, its queue and computation in
/// the same lane of the server, and a flow from request to service to reply. A trace does not say
/// when within an op the server worked: the wire's and the TEE's time are drawn half before and
/// half after.
class ChromeExport {
 public:
  /// `output` outlives it.
  ChromeExport(const TraceHeader& header, Output& output);
  /// kInvalidInput where more than kMaxLanes ops are under way at once.
  Status add(const TraceRecord& record);
  /// Closes the JSON; `cut` goes into its metadata.
  void finish(std::string_view cut);

 private:
  struct Slice;
  void event(const JsonObject& event);
  void name_lane(std::size_t lane);
  Result<std::size_t> take_lane(std::uint64_t start_ns, std::uint64_t end_ns);
  void slice(const Slice& slice);
  void flow(std::string_view phase, int pid, std::size_t lane, std::uint64_t ns);

  const TraceHeader header_;
  Output& output_;
  std::vector<std::uint64_t> lane_ends_ns_;
  std::uint64_t count_ = 0;  // of records; also the flows' ids
  bool first_ = true;
};

}  // namespace airlock::trace
