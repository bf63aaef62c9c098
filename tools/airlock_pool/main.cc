#include <fmt/format.h>
#include <unistd.h>

#include "base/deadline.h"
#include "base/log.h"
#include "base/process_limits.h"
#include "runtime/program/program.h"
#include "tools/airlock_pool/bench.h"
#include "tools/airlock_pool/check.h"
#include "tools/airlock_pool/list.h"
#include "tools/airlock_pool/options.h"

namespace airlock::pool_tool {
namespace {

constexpr std::string_view kClearScreen = "\x1b[H\x1b[2J\x1b[3J";
// Measured: 8 in a session; the rings' and the lease's while it begins.
constexpr std::size_t kDescriptors = 16;

Status killed(const CountersSnapshot& snapshot) {
  return {StatusCode::kUnavailable,
          "the server (pid {}) ended without cleaning up: this is what it counted last",
          snapshot.pid};
}

Status list_once(const Endpoint& endpoint, OutputForm form) {
  ASSIGN_OR_RETURN(const CountersSnapshot snapshot, look(endpoint));
  RETURN_IF_ERROR(print(show_pool(snapshot, form)));
  return snapshot.alive ? Status() : killed(snapshot);
}

/// Ok at a signal and at the server's clean end.
Status watch(const Endpoint& endpoint, const Options& options) {
  const bool redraws = options.form == OutputForm::kMarkdown && ::isatty(STDOUT_FILENO) == 1;
  const UniqueFd signals = take_signals({SIGINT, SIGTERM});
  RETURN_IF_ERROR(list_once(endpoint, options.form));
  while (!signalled(signals.get(), Deadline::after(options.interval))) {
    const auto snapshot = look(endpoint);
    if (snapshot.status().code() == StatusCode::kUnavailable) {
      log_info("the server has ended");
      return {};
    }
    RETURN_IF_ERROR(snapshot.status());
    if (options.form == OutputForm::kMarkdown)
      RETURN_IF_ERROR(print(redraws ? kClearScreen : std::string_view("\n")));
    RETURN_IF_ERROR(print(show_pool(*snapshot, options.form)));
    if (!snapshot->alive) return killed(*snapshot);
  }
  return {};
}

Status run(const Options& options) {
  const bool connects = options.command == Command::kCheck || options.command == Command::kBench;
  if (connects) RETURN_IF_ERROR(ensure_descriptors(kDescriptors));
  ASSIGN_OR_RETURN(const Endpoint endpoint, parse_endpoint(options.endpoint));
  switch (options.command) {
    case Command::kList:
      return list_once(endpoint, options.form);
    case Command::kWatch:
      return watch(endpoint, options);
    case Command::kCheck:
      return run_check(options);
    case Command::kBench:
      return run_bench(options);
  }
  return {};
}

}  // namespace
}  // namespace airlock::pool_tool

int main(int argc, char** argv) {
  using namespace airlock;
  return run_program(
      "airlock_pool", [&] { return pool_tool::parse_options(argc, argv); }, pool_tool::run);
}
