#include "tee_runner/stats_reporter.h"

#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <utility>

#include "base/deadline.h"
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
  return UniqueFd(signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
}

}  // namespace

StatsReporter::StatsReporter(const PrefillOptions& options)
    : start_ns_(now_ns()),
      path_(options.stats_json),
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

void StatsReporter::attach(const TransportStats* transport, const OpStatsTable* ops) {
  const std::lock_guard lock(mutex_);
  transport_ = transport;
  ops_ = ops;
}

void StatsReporter::detach() {
  const std::lock_guard lock(mutex_);
  read_counters();
  transport_ = nullptr;
  ops_ = nullptr;
  goodbye_ = nullptr;
}

void StatsReporter::set_goodbye(std::function<void()> goodbye) {
  const std::lock_guard lock(mutex_);
  goodbye_ = std::move(goodbye);
}

void StatsReporter::say_goodbye() {
  const std::lock_guard lock(mutex_);
  call_goodbye();
}

void StatsReporter::call_goodbye() {
  if (const auto goodbye = std::exchange(goodbye_, nullptr)) goodbye();
}

void StatsReporter::read_counters() {
  if (transport_ != nullptr) report_.transport = transport_->snapshot();
  if (ops_ != nullptr) report_.ops = ops_->snapshot();
  report_.tee = tee_snapshot(tee_);
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
    log_error(fmt::format("ended by signal {}", info.ssi_signo));
    const std::lock_guard lock(
        mutex_);  // held to the end: the main thread closes and detaches nothing meanwhile
    if (goodbye_) {
      call_goodbye();
      std::this_thread::sleep_for(kGoodbyeTime);
    }
    // The main thread may be deep in an op, so nothing is torn down.
    std::_Exit(exit_code(StatusCode::kCancelled));
  }
}

}  // namespace airlock
