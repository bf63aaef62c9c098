#include "tee_runner/stats_reporter.h"

#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <utility>

#include "base/deadline.h"
#include "base/file.h"
#include "base/log.h"

namespace airlock {

namespace {

/// For libzmq's thread to put the goodbye on its socket; a signal ends the process before a linger
/// could.
constexpr std::chrono::milliseconds kGoodbyeTime{50};

UniqueFd take_signals() {
  sigset_t signals;
  sigemptyset(&signals);
  for (const int number : {SIGINT, SIGTERM, SIGUSR1}) sigaddset(&signals, number);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  signal(SIGPIPE, SIG_IGN);
  signal(SIGXFSZ, SIG_IGN);  // a file that may grow no more is an error of that write
  return UniqueFd(signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
}

}  // namespace

StatsReporter::StatsReporter(std::string stats_json)
    : start_ns_(now_ns()),
      path_(std::move(stats_json)),
      signals_(take_signals()),
      stop_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  report_.side = "tee_runner";
  report_.host = describe_host("");
  if (signals_.valid() && stop_.valid()) {
    thread_ = std::thread([this] { await_signals(); });
  } else {
    log_warning("signals cannot be watched: SIGUSR1 prints no statistics");
  }
}

StatsReporter::~StatsReporter() {
  if (!thread_.joinable()) return;
  const std::uint64_t one = 1;
  // Adding 1 to a fresh eventfd cannot fail.
  if (::write(stop_.get(), &one, sizeof(one)) != sizeof(one))
    log_warning("the signal thread was not told to stop");
  thread_.join();
}

void StatsReporter::set_device(std::string_view device) {
  const std::lock_guard lock(mutex_);
  report_.host = describe_host(device);
}

void StatsReporter::add_config(std::string key, std::string value) {
  const std::lock_guard lock(mutex_);
  report_.config.emplace_back(std::move(key), std::move(value));
}

StatsReporter::SourceId StatsReporter::attach(const TransportStats* transport,
                                              const OpStatsTable* ops) {
  const std::lock_guard lock(mutex_);
  sources_.push_back({next_source_, transport, ops, nullptr});
  return next_source_++;
}

StatsReporter::Source* StatsReporter::find(SourceId id) {
  const auto place = std::ranges::find(sources_, id, &Source::id);
  return place == sources_.end() ? nullptr : &*place;
}

void StatsReporter::detach(SourceId source) {
  const std::lock_guard lock(mutex_);
  const Source* gone = find(source);
  if (gone == nullptr) return;
  if (gone->transport != nullptr) merge(ended_.transport, *gone->transport);
  if (gone->ops != nullptr) merge(ended_.ops, *gone->ops);
  std::erase_if(sources_, [source](const Source& s) { return s.id == source; });
  read_counters();
}

void StatsReporter::set_goodbye(SourceId source, std::function<void()> goodbye) {
  const std::lock_guard lock(mutex_);
  if (Source* found = find(source)) found->goodbye = std::move(goodbye);
}

void StatsReporter::say_goodbye(SourceId source) {
  const std::lock_guard lock(mutex_);
  Source* found = find(source);
  if (found == nullptr) return;
  if (const auto goodbye = std::exchange(found->goodbye, nullptr)) goodbye();
}

void StatsReporter::set_last_words(std::function<void(const SideReport&)> last_words) {
  const std::lock_guard lock(mutex_);
  last_words_ = std::move(last_words);
}

SideReport StatsReporter::report() {
  const std::lock_guard lock(mutex_);
  read_counters();
  return report_;
}

void StatsReporter::read_counters() {
  report_.transport = ended_.transport;
  report_.ops = ended_.ops;
  for (const Source& source : sources_) {
    if (source.transport != nullptr) merge(report_.transport, *source.transport);
    if (source.ops != nullptr) merge(report_.ops, *source.ops);
  }
  report_.tee = snapshot_of(tee_);
  report_.wall_ns = now_ns() - start_ns_;
}

Status StatsReporter::write() {
  const std::lock_guard lock(mutex_);
  read_counters();
  const std::string table = report_table(report_);
  std::fwrite(table.data(), 1, table.size(), stderr);
  return path_.empty() ? Status() : write_file_atomically(path_, report_json(report_));
}

void StatsReporter::await_signals() {
  pollfd waits[] = {{signals_.get(), POLLIN, 0}, {stop_.get(), POLLIN, 0}};
  for (;;) {
    if (::poll(waits, 2, -1) < 0 && errno != EINTR) return;
    if ((waits[1].revents & POLLIN) != 0) return;
    signalfd_siginfo info;
    if (::read(signals_.get(), &info, sizeof(info)) != sizeof(info)) continue;
    if (const Status status = write(); !status.ok()) log_error(status.message());
    if (info.ssi_signo == SIGUSR1) continue;
    end_process(info.ssi_signo);
  }
}

void StatsReporter::end_process(unsigned signal) {
  log_error(fmt::format("ended by signal {}", signal));
  // Held to the end: the other threads close and detach nothing meanwhile.
  const std::lock_guard lock(mutex_);
  read_counters();
  if (last_words_) last_words_(report_);
  bool any = false;
  for (Source& source : sources_) {
    if (const auto goodbye = std::exchange(source.goodbye, nullptr)) {
      goodbye();
      any = true;
    }
  }
  if (any) std::this_thread::sleep_for(kGoodbyeTime);
  // The other threads may be deep in an op, so nothing is torn down.
  std::_Exit(exit_code(StatusCode::kCancelled));
}

}  // namespace airlock
