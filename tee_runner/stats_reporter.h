#pragma once

#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>

#include "base/unique_fd.h"
#include "runtime/stats/op_stats.h"
#include "runtime/stats/report.h"
#include "runtime/stats/transport_stats.h"
#include "tee_runner/options.h"

namespace airlock {

/// The runner's statistics: printed as a table on stderr, and written as --stats-json, at the end
/// of every run (failed or not) and on SIGUSR1. SIGINT and SIGTERM write them too and end the
/// process. A thread of its own waits for the signals; make it before any other thread, so that all
/// of them block the signals. Thread-safe.
class StatsReporter {
 public:
  explicit StatsReporter(const PrefillOptions& options);
  ~StatsReporter();  // ends the signal thread
  StatsReporter(const StatsReporter&) = delete;
  StatsReporter& operator=(const StatsReporter&) = delete;

  TeeStatsTable& tee() { return tee_; }
  /// Booked by a local backend.
  OpStatsTable& local_ops() { return local_ops_; }
  void set_device(std::string_view device);
  void add_config(std::string key, std::string value);
  /// Reads these from now on, until detach() keeps their last state. Either may be null.
  void attach(const TransportStats* transport, const OpStatsTable* ops);
  void detach();
  /// `goodbye` leaves the server: say_goodbye() calls it once, or a signal that ends the process;
  /// after detach() nothing does. A server that is not told holds the session for its 10 s of
  /// silence.
  void set_goodbye(std::function<void()> goodbye);
  void say_goodbye();
  /// Table and file, once more. kInvalidInput where the file cannot be written.
  Status write();

 private:
  void await_signals();
  void read_counters();
  void call_goodbye();

  const std::uint64_t start_ns_;
  const std::string path_;
  std::mutex mutex_;
  SideReport report_;  // guarded by mutex_, as are the two pointers and goodbye_
  const TransportStats* transport_ = nullptr;
  const OpStatsTable* ops_ = nullptr;
  std::function<void()> goodbye_;
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
      : reporter_(reporter) {
    reporter_.attach(transport, ops);
  }
  ~StatsAttachment() { reporter_.detach(); }
  StatsAttachment(const StatsAttachment&) = delete;
  StatsAttachment& operator=(const StatsAttachment&) = delete;

 private:
  StatsReporter& reporter_;
};

}  // namespace airlock
