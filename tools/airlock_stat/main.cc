#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include "base/deadline.h"
#include "base/log.h"
#include "runtime/program/program.h"
#include "tools/airlock_stat/options.h"
#include "tools/airlock_stat/show.h"
#include "tools/airlock_stat/source.h"

namespace airlock {
namespace {

constexpr std::string_view kClearScreen = "\x1b[H\x1b[2J\x1b[3J";

Status killed(const CountersSnapshot& snapshot) {
  return {StatusCode::kUnavailable,
          "the server (pid {}) ended without cleaning up: these are its last figures",
          snapshot.pid};
}

/// `snapshot` is what was printed last. Ok at a signal and at the server's clean end.
Status watch(const StatOptions& options, const StatSource& source, CountersSnapshot snapshot,
             int signal_fd) {
  const bool terminal = ::isatty(STDOUT_FILENO) == 1;
  for (;;) {
    if (signalled(signal_fd, Deadline::after(*options.watch))) return {};
    auto next = source.look();
    if (!next.ok() && next.status().code() == StatusCode::kUnavailable) {
      if (source.scope() == StatSource::Scope::kOwnSession) return next.status();
      log_info(fmt::format("the server (pid {}) has ended", snapshot.pid));
      return {};
    }
    if (!next.ok()) return next.status();
    const bool changed = next->pid != snapshot.pid;
    snapshot = std::move(next).value();
    const bool table = options.form == OutputForm::kMarkdown;
    if (table) RETURN_IF_ERROR(print(terminal ? kClearScreen : "\n"));
    RETURN_IF_ERROR(print(show(snapshot, source.scope(), options.form)));
    if (changed) log_info(fmt::format("another server serves here now (pid {})", snapshot.pid));
    if (!snapshot.alive) return killed(snapshot);
  }
}

/// Prints to stdout: once, or until SIGINT, SIGTERM or the server's end. kUnavailable: there is no
/// server, or it was killed (its figures are printed all the same).
Status run_stat(const StatOptions& options) {
  ASSIGN_OR_RETURN(const StatSource source, StatSource::open(options));
  // Not before: until then a signal ends the program, however long the server takes to answer.
  const UniqueFd signals = options.watch ? take_signals({SIGINT, SIGTERM}) : UniqueFd();
  ASSIGN_OR_RETURN(CountersSnapshot snapshot, source.look());
  RETURN_IF_ERROR(print(show(snapshot, source.scope(), options.form)));
  if (!snapshot.alive) return killed(snapshot);
  if (!options.watch) return {};
  return watch(options, source, std::move(snapshot), signals.get());
}

}  // namespace
}  // namespace airlock

int main(int argc, char** argv) {
  using namespace airlock;
  return run_program(
      "airlock_stat", [&] { return parse_stat_options(argc, argv); }, run_stat);
}
