#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "runtime/op_times.h"
#include "runtime/stats/op_stats.h"
#include "runtime/stats/transport_stats.h"
#include "runtime/trace/between.h"
#include "runtime/trace/trace.h"

namespace airlock {

/// What went by one path, both ways, as the runner sees it.
struct PathFlow {
  DirectionSnapshot sent;
  DirectionSnapshot received;
  template <typename Each, typename... Flows>
  static void visit(Each&& each, Flows&... flows) {
    each("sent", flows.sent...);
    each("received", flows.received...);
  }
};

/// Time of one side, recorded or replayed, added up over clients. Sums saturate: a trace's times
/// may be anything.
struct ReplaySide {
  OpSnapshotTable ops;
  std::uint64_t wall_ns = 0;  // first op's start to last reply, added up over passes and clients
  /// Of that, no op was under way, and it was not waited for a start; nullopt: not known.
  std::optional<std::uint64_t> between_ns = 0;
  std::uint64_t idle_ns = 0;  // of that, waited for a recorded start (--speed recorded)
  OpSnapshot sum() const;
};

/// What was replayed so far, beside what was recorded of the same ops. A plain value.
struct ReplayCounts {
  std::uint64_t ops = 0;
  std::uint64_t bytes = 0;  // of tensors, both ways
  ReplaySide recorded;
  ReplaySide replayed;
  OpHistogramSnapshots total_ns;            // of each replayed op
  PerValue<Path, PathFlow> recorded_paths;  // the replayed are in TransportStats
  std::uint64_t tensors_checked = 0;
  std::uint64_t tensors_differing = 0;
  std::string first_difference;
  std::uint64_t start_ns = 0;  // steady clock; 0: not begun
  std::uint64_t end_ns = 0;    // the last reply
  void merge(const ReplayCounts& other);
};

/// Counts one client's replay. One thread books, any thread reads.
class ReplayTally {
 public:
  explicit ReplayTally(const TraceHeader& header);

  void begin(std::uint64_t now_ns);
  /// An op that took `times` from `start_ns` on.
  void book(const TraceRecord& record, const OpTimes& times, std::uint64_t start_ns);
  void book_idle(std::uint64_t idle_ns);
  /// An output was compared; `difference` is empty where it is as recorded.
  void book_check(const std::string& difference);
  /// The whole trace was replayed once.
  void end_pass();
  ReplayCounts counts() const;

 private:
  void book_recorded(const TraceRecord& record);

  const bool crosses_;      // the recorded ops crossed something
  const Path header_path_;  // of the recorded messages' headers
  const TraceSource source_;
  const std::optional<std::uint64_t> recorded_wall_ns_;
  mutable std::mutex mutex_;
  ReplayCounts counts_;  // guarded, as are the next two; without what they and histograms_ hold
  BusyTime replayed_;
  BusyTime recorded_;  // of this pass
  OpHistograms histograms_;
};

}  // namespace airlock
