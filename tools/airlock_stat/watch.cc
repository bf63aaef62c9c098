#include "tools/airlock_stat/watch.h"

#include <fmt/format.h>
#include <unistd.h>

#include <utility>

#include "base/deadline.h"
#include "base/log.h"
#include "runtime/program/program.h"

namespace airlock {
namespace {

constexpr std::string_view kClearScreen = "\x1b[H\x1b[2J\x1b[3J";

Status killed(const CountersSnapshot& snapshot) {
  return {StatusCode::kUnavailable,
          "the server (pid {}) ended without cleaning up: these are its last figures",
          snapshot.pid};
}

}  // namespace

Result<CountersSnapshot> show_once(const Watched& watched) {
  ASSIGN_OR_RETURN(CountersSnapshot snapshot, watched.look());
  RETURN_IF_ERROR(print(watched.show(snapshot)));
  if (!snapshot.alive) return killed(snapshot);
  return snapshot;
}

Status watch(const Watched& watched, std::chrono::nanoseconds interval, int signal_fd) {
  ASSIGN_OR_RETURN(CountersSnapshot snapshot, show_once(watched));
  const bool redraws = ::isatty(STDOUT_FILENO) == 1;
  while (!signalled(signal_fd, Deadline::after(interval))) {
    auto next = watched.look();
    if (watched.is_file && next.status().code() == StatusCode::kUnavailable) {
      log_info(fmt::format("the server (pid {}) has ended", snapshot.pid));
      return {};
    }
    RETURN_IF_ERROR(next.status());
    const bool changed = next->pid != snapshot.pid;
    snapshot = std::move(next).value();
    if (watched.form == OutputForm::kMarkdown)
      RETURN_IF_ERROR(print(redraws ? kClearScreen : std::string_view("\n")));
    RETURN_IF_ERROR(print(watched.show(snapshot)));
    if (changed) log_info(fmt::format("another server serves here now (pid {})", snapshot.pid));
    if (!snapshot.alive) return killed(snapshot);
  }
  return {};
}

}  // namespace airlock
