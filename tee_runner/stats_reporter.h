#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "base/output_file.h"
#include "base/unique_fd.h"
#include "base/wake_event.h"
#include "runtime/rpc/client.h"
#include "runtime/stats/op_stats.h"
#include "runtime/stats/report.h"

namespace airlock {

class ReportedSession;

/// The runner's statistics: printed as a table on stderr, and written as --stats-json, at the end
/// of every run (failed or not) and on SIGUSR1. SIGINT, SIGTERM and SIGHUP write them and end the
/// process, whatever stream or disk stands still meanwhile: stderr_sink() has its writer by then,
/// and for all of it there are two seconds. A thread of its own waits for the signals; make it
/// before any other thread that may take them. Thread-safe.
class StatsReporter {
 public:
  /// `stats_json`: nullopt: no file. kResourceExhausted: the signals cannot be watched, for want of
  /// a descriptor or a thread.
  static Result<std::unique_ptr<StatsReporter>> create(std::optional<OutputFile> stats_json);
  ~StatsReporter();  // ends the signal thread
  StatsReporter(const StatsReporter&) = delete;
  StatsReporter& operator=(const StatsReporter&) = delete;

  TeeStatsTable& tee() { return tee_; }
  /// Booked by an engine. From the first call on the report has it.
  TextStats& text();
  /// Booked by what hides and checks ops. From the first call on the report has it.
  PrivacyStats& privacy(std::string_view mode);
  /// Asked at a signal that would end the process, on the reporter's thread: true where it was
  /// meant for what is under way, and the process goes on. Empty: nothing is asked.
  void set_interrupt(std::function<bool(int signal)> interrupt);
  /// Booked by a local backend.
  OpStatsTable& local_ops() { return local_ops_; }
  void set_device(std::string_view device);
  void add_config(std::string_view key, std::string_view value);
  /// Called, with what was counted, by a signal that ends the process, before it does: for the part
  /// of a result that there is. It must not call the reporter. Empty: nothing more is called.
  void set_last_words(std::function<void(const SideReport&)> last_words);
  /// What was counted up to now.
  SideReport report();
  /// Table and file, once more. Errors as OutputFile's.
  Status write();

 private:
  friend class ReportedSession;
  explicit StatsReporter(std::optional<OutputFile> stats_json);
  bool is_taken(unsigned signal);
  void add_limit(std::string_view key, std::string value);
  void await_signals();
  void read_counters();
  Status write_report(std::optional<Deadline> end);
  Status write_in_passing();
  [[noreturn]] void end_process(unsigned signal);

  const std::uint64_t start_ns_;
  const std::optional<OutputFile> stats_json_;
  std::mutex writing_;  // of stats_json_; taken before mutex_, and perhaps for long
  std::mutex mutex_;
  SideReport report_;  // guarded by mutex_, as is all up to last_words_
  std::vector<ReportedSession*> sessions_;
  SessionReport ended_;  // the counters of the sessions that are gone
  std::function<void(const SideReport&)> last_words_;
  std::function<bool(int signal)> interrupt_;
  bool has_text_ = false;
  TextStats text_;
  std::string privacy_mode_;  // empty: none
  PrivacyStats privacy_;
  TeeStatsTable tee_;
  OpStatsTable local_ops_;
  UniqueFd signals_;
  WakeEvent stop_;
  std::thread thread_;
};

/// Has the reporter ask at signals while it lives; set_interrupt().
class InterruptGuard {
 public:
  InterruptGuard(StatsReporter& reporter, std::function<bool(int signal)> interrupt)
      : reporter_(reporter) {
    reporter_.set_interrupt(std::move(interrupt));
  }
  ~InterruptGuard() { reporter_.set_interrupt({}); }
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;

 private:
  StatsReporter& reporter_;
};

/// A session whose counters are in the report, with their last state once this is gone. What
/// several sessions counted is added up. Session and reporter outlive it.
class ReportedSession {
 public:
  ReportedSession(StatsReporter& reporter, ClientSession& session);
  ~ReportedSession();
  ReportedSession(const ReportedSession&) = delete;
  ReportedSession& operator=(const ReportedSession&) = delete;

  /// Closes the session, unless a signal that ends the process did. A server that is not told holds
  /// the session for its 10 s of silence.
  void say_goodbye();

 private:
  friend class StatsReporter;
  void close();
  void add_to(SessionReport& sum) const;

  StatsReporter& reporter_;
  ClientSession& session_;
  bool closed_ = false;  // guarded by the reporter's mutex_
};

}  // namespace airlock
