#pragma once

#include <cstdint>
#include <mutex>
#include <optional>
#include <string>

#include "runtime/backend.h"
#include "runtime/replay/material.h"
#include "runtime/trace/summary.h"
#include "runtime/trace/trace.h"

namespace airlock {

/// One side, recorded or replayed, added up over passes and clients.
struct ReplaySide {
  // Of the replayed side, paths are those that were recorded: the sessions know the others.
  TraceSummary sums;
  // First op's start to last reply.
  std::uint64_t wall_ns = 0;
  // Of that, no op was under way, and it was not waited for a start; nullopt: not known.
  std::optional<std::uint64_t> between_ns = 0;
  // Of that, waited for a recorded start (--speed recorded).
  std::uint64_t idle_ns = 0;
  void merge(const ReplaySide& other);
};

/// What was replayed so far, beside what was recorded of the same ops. A plain value.
struct ReplayCounts {
  ReplaySide recorded;
  ReplaySide replayed;
  std::uint64_t tensors_checked = 0;
  std::uint64_t tensors_differing = 0;
  std::string first_difference;
  // Steady clock; 0: not begun.
  std::uint64_t start_ns = 0;
  // The last reply.
  std::uint64_t end_ns = 0;
  std::uint64_t ops() const { return replayed.sums.all.calls; }
  std::uint64_t wall_ns() const { return end_ns - start_ns; }
  void merge(const ReplayCounts& other);
};

/// Counts one client's replay. One thread books, any thread reads.
class ReplayTally {
 public:
  explicit ReplayTally(const TraceHeader& header)
      : header_(header), policy_(recorded_policy(header)) {}

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
  const TraceHeader header_;
  // nullopt: the recorded ops crossed nothing.
  const std::optional<PathPolicy> policy_;
  mutable std::mutex mutex_;
  // Guarded. Its summaries hold the time under way of this pass (recorded) and of all (replayed).
  ReplayCounts counts_;
};

}  // namespace airlock
