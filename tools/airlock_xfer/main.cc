#include <sys/signalfd.h>

#include <csignal>
#include <cstdio>
#include <string_view>

#include "base/log.h"
#include "base/unique_fd.h"
#include "tools/airlock_xfer/run.h"

namespace {

// Blocked in every thread and read from a descriptor: no handler interrupts a measurement.
airlock::UniqueFd take_signals() {
  sigset_t signals;
  sigemptyset(&signals);
  for (int number : {SIGINT, SIGTERM, SIGHUP}) sigaddset(&signals, number);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  return airlock::UniqueFd(signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
}

void write_out(std::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);  // a row at a time
}

}  // namespace

int main(int argc, char** argv) {
  airlock::set_log_name("airlock_xfer");
  auto options = airlock::xfer::parse_options(argc, argv);
  airlock::Status status = options.status();
  if (options.ok()) {
    if (!options->has_value()) return 0;
    const airlock::UniqueFd signals = take_signals();
    status = airlock::xfer::run(**options, write_out, signals.get()).status;
  }
  if (!status.ok()) airlock::log_error(status.message());
  return airlock::exit_code(status.code());
}
