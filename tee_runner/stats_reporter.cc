#include "tee_runner/stats_reporter.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <utility>

#include "base/deadline.h"
#include "base/file.h"
#include "base/log.h"
#include "base/sink.h"
#include "base/thread.h"
#include "runtime/program/program.h"

namespace airlock {

namespace {

/// After a signal the process ends by then, whatever holds up what is left to be said.
constexpr std::chrono::seconds kEndTime{2};

}  // namespace

StatsReporter::StatsReporter(std::optional<OutputFile> stats_json)
    : start_ns_(now_ns()),
      stats_json_(std::move(stats_json)),
      signals_(take_signals({SIGINT, SIGTERM, SIGUSR1})) {
  signal(SIGPIPE, SIG_IGN);
  report_.side = "tee_runner";
  report_.host = describe_host("");
}

Result<std::unique_ptr<StatsReporter>> StatsReporter::create(std::optional<OutputFile> stats_json) {
  std::unique_ptr<StatsReporter> reporter(new StatsReporter(std::move(stats_json)));
  if (!reporter->signals_.valid()) return os_error("watch the signals", errno);
  RETURN_IF_ERROR(reporter->stop_.check());
  ASSIGN_OR_RETURN(reporter->thread_,
                   start_thread("the signals", [self = reporter.get()] { self->await_signals(); }));
  return reporter;
}

StatsReporter::~StatsReporter() {
  stop_.set();
  if (thread_.joinable()) thread_.join();
}

void StatsReporter::set_device(std::string_view device) {
  const std::lock_guard lock(mutex_);
  report_.host = describe_host(device);
}

void StatsReporter::add_config(std::string_view key, std::string_view value) {
  const std::lock_guard lock(mutex_);
  report_.config.emplace_back(key, value);
}

/// Of one more session: where they differ nobody's is said.
void StatsReporter::add_limit(std::string_view key, std::string value) {
  auto& config = report_.config;
  const auto found = std::ranges::find(config, key, &std::pair<std::string, std::string>::first);
  if (found == config.end()) {
    config.emplace_back(key, std::move(value));
  } else if (found->second != value) {
    found->second = "of each session its own";
  }
}

void StatsReporter::set_last_words(std::function<void(const SideReport&)> last_words) {
  const std::lock_guard lock(mutex_);
  last_words_ = std::move(last_words);
}

TextStats& StatsReporter::text() {
  const std::lock_guard lock(mutex_);
  has_text_ = true;
  return text_;
}

PrivacyStats& StatsReporter::privacy(std::string_view mode) {
  const std::lock_guard lock(mutex_);
  privacy_mode_ = mode;
  return privacy_;
}

void StatsReporter::set_interrupt(std::function<bool(int signal)> interrupt) {
  const std::lock_guard lock(mutex_);
  interrupt_ = std::move(interrupt);
}

bool StatsReporter::is_taken(unsigned signal) {
  const std::lock_guard lock(mutex_);
  return signal != SIGUSR1 && interrupt_ && interrupt_(static_cast<int>(signal));
}

SideReport StatsReporter::report() {
  const std::lock_guard lock(mutex_);
  read_counters();
  return report_;
}

void StatsReporter::read_counters() {
  SessionReport sum = ended_;
  for (const ReportedSession* session : sessions_) session->add_to(sum);
  merge(sum.ops, local_ops_);
  report_.transport = sum.transport;
  report_.ops = sum.ops;
  report_.tee = snapshot_of(tee_);
  if (has_text_) merge(report_.text.emplace(), text_);
  if (!privacy_mode_.empty()) {
    report_.privacy.emplace().mode = privacy_mode_;
    PrivacySnapshot& counted = report_.privacy->counted;
    merge(counted, privacy_);
    // Read one after the other, while they grow.
    const std::uint64_t gone = counted.pads_used + counted.pads_dropped;
    report_.privacy->pads_left = counted.pads_made - std::min(counted.pads_made, gone);
  }
  report_.wall_ns = now_ns() - start_ns_;
}

Status StatsReporter::write_report(std::optional<Deadline> end) {
  const SideReport current = report();
  stderr_sink().write(report_table(current));
  return stats_json_ ? stats_json_->write(report_json(current), end) : Status();
}

Status StatsReporter::write() {
  const std::lock_guard lock(writing_);
  return write_report(std::nullopt);
}

Status StatsReporter::write_in_passing() {
  const std::unique_lock lock(writing_, std::try_to_lock);
  // Not ours: the run is over, and all that was counted is being written.
  return lock.owns_lock() ? write_report(Deadline::after(OutputFile::kPassingWait)) : Status();
}

void StatsReporter::await_signals() {
  pollfd waits[] = {{signals_.get(), POLLIN, 0}, {stop_.fd(), POLLIN, 0}};
  for (;;) {
    if (::poll(waits, 2, -1) < 0 && errno != EINTR) return;
    if ((waits[1].revents & POLLIN) != 0) return;
    signalfd_siginfo info;
    if (::read(signals_.get(), &info, sizeof(info)) != sizeof(info)) continue;
    if (is_taken(info.ssi_signo)) continue;
    if (info.ssi_signo != SIGUSR1) end_process(info.ssi_signo);
    const Status status = without_exceptions([this] { return write_in_passing(); });
    if (!status.ok()) log_error(status.message());
  }
}

void StatsReporter::end_process(unsigned signal) {
  constexpr int kExitCode = exit_code(StatusCode::kCancelled);
  // Nobody may read the statistics, or stdout, where the last words go, or take the goodbyes.
  const auto end = start_thread("the end of the process", [] {
    std::this_thread::sleep_for(kEndTime);
    exit_at_once(kExitCode);
  });
  const Status status = without_exceptions([&]() -> Status {
    if (!end.ok()) return first_failure(end.status(), write_in_passing());
    // Both are held to the end: nothing is written once more, and no session is closed or taken
    // away.
    writing_.lock();
    const Status written = write_report(Deadline::after(OutputFile::kLastWait));
    if (!written.ok()) log_error(written.message());
    log_error(fmt::format("ended by signal {}", signal));
    mutex_.lock();
    read_counters();
    if (last_words_) last_words_(report_);
    for (ReportedSession* session : sessions_) session->close();
    return {};
  });
  if (!status.ok()) log_error(status.message());
  // The other threads may be deep in an op, so nothing is torn down.
  exit_at_once(kExitCode);
}

ReportedSession::ReportedSession(StatsReporter& reporter, ClientSession& session)
    : reporter_(reporter), session_(session) {
  const Calibration& calibration = session.calibration();
  if (calibration.path_limit > 0) log_info(calibration.text());
  const std::lock_guard lock(reporter_.mutex_);
  const PathPolicy& policy = session.policy();
  if (policy.has_ring) reporter_.add_limit("path_limit", std::to_string(policy.limit_bytes));
  if (policy.inline_bytes > 0)
    reporter_.add_limit("inline_bytes", std::to_string(policy.inline_bytes));
  if (session.data_sockets() > 1)
    reporter_.add_limit("data_sockets", std::to_string(session.data_sockets()));
  if (calibration.path_limit > 0) reporter_.add_limit("path_limit_trials", calibration.text());
  reporter_.sessions_.push_back(this);
}

ReportedSession::~ReportedSession() {
  const std::lock_guard lock(reporter_.mutex_);
  add_to(reporter_.ended_);
  std::erase(reporter_.sessions_, this);
}

void ReportedSession::say_goodbye() {
  const std::lock_guard lock(reporter_.mutex_);
  close();
}

/// Whether it was open.
void ReportedSession::close() {
  if (!std::exchange(closed_, true)) session_.close();
}

void ReportedSession::add_to(SessionReport& sum) const {
  merge(sum.transport, session_.transport_stats());
  merge(sum.ops, session_.op_stats());
}

}  // namespace airlock
