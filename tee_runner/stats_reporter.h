#pragma once

#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "base/unique_fd.h"
#include "runtime/stats/op_stats.h"
#include "runtime/stats/report.h"
#include "runtime/stats/transport_stats.h"

namespace airlock {

/// The runner's statistics: printed as a table on stderr, and written as --stats-json, at the end
/// of every run (failed or not) and on SIGUSR1. SIGINT and SIGTERM write them too and end the
/// process. A thread of its own waits for the signals; make it before any other thread, so that all
/// of them block the signals. Thread-safe.
class StatsReporter {
 public:
  /// `stats_json`: the file's path; empty: no file.
  explicit StatsReporter(std::string stats_json);
  ~StatsReporter();  // ends the signal thread
  StatsReporter(const StatsReporter&) = delete;
  StatsReporter& operator=(const StatsReporter&) = delete;

  TeeStatsTable& tee() { return tee_; }
  /// Booked by a local backend.
  OpStatsTable& local_ops() { return local_ops_; }
  void set_device(std::string_view device);
  void add_config(std::string key, std::string value);
  using SourceId = std::uint64_t;
  /// Reads these from now on, until detach() keeps their last state; either may be null. What
  /// several sources counted is added up. StatsAttachment does both.
  SourceId attach(const TransportStats* transport, const OpStatsTable* ops);
  void detach(SourceId source);
  /// `goodbye` leaves the source's server: say_goodbye() calls it once, or a signal that ends the
  /// process; after detach() nothing does. A server that is not told holds the session for its 10 s
  /// of silence.
  void set_goodbye(SourceId source, std::function<void()> goodbye);
  void say_goodbye(SourceId source);
  /// Called, with what was counted, by a signal that ends the process, before it does: for the part
  /// of a result that there is. It must not call the reporter. Empty: nothing more is called.
  void set_last_words(std::function<void(const SideReport&)> last_words);
  /// What was counted up to now.
  SideReport report();
  /// Table and file, once more. kInvalidInput where the file cannot be written.
  Status write();

 private:
  void await_signals();
  struct Source {
    SourceId id = 0;
    const TransportStats* transport = nullptr;
    const OpStatsTable* ops = nullptr;
    std::function<void()> goodbye;
  };
  Source* find(SourceId id);
  void read_counters();
  [[noreturn]] void end_process(unsigned signal);

  const std::uint64_t start_ns_;
  const std::string path_;
  std::mutex mutex_;
  SideReport report_;  // guarded by mutex_, as is all up to last_words_
  std::vector<Source> sources_;
  SourceId next_source_ = 1;
  SessionReport ended_;  // the counters of the sources that were detached
  std::function<void(const SideReport&)> last_words_;
  TeeStatsTable tee_;
  OpStatsTable local_ops_;
  UniqueFd signals_;
  UniqueFd stop_;  // an eventfd
  std::thread thread_;
};

/// Holds an attachment of a StatsReporter while it lives.
class StatsAttachment {
 public:
  StatsAttachment(StatsReporter& reporter, const TransportStats* transport, const OpStatsTable* ops)
      : reporter_(reporter), source_(reporter.attach(transport, ops)) {}
  ~StatsAttachment() { reporter_.detach(source_); }
  StatsAttachment(const StatsAttachment&) = delete;
  StatsAttachment& operator=(const StatsAttachment&) = delete;

  void set_goodbye(std::function<void()> goodbye) {
    reporter_.set_goodbye(source_, std::move(goodbye));
  }
  void say_goodbye() { reporter_.say_goodbye(source_); }

 private:
  StatsReporter& reporter_;
  const StatsReporter::SourceId source_;
};

}  // namespace airlock
