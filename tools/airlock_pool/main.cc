#include <signal.h>

#include "base/process_limits.h"
#include "runtime/program/program.h"
#include "tools/airlock_pool/bench.h"
#include "tools/airlock_pool/check.h"
#include "tools/airlock_pool/list.h"
#include "tools/airlock_pool/options.h"
#include "tools/airlock_stat/watch.h"

namespace airlock::pool_tool {
namespace {

// Measured: 8 in a session; the rings' and the lease's while it begins.
constexpr std::size_t kDescriptors = 16;

Status show_list(const Endpoint& endpoint, const Options& options) {
  const Watched watched{
      .look = [&endpoint] { return look(endpoint); },
      .show = [&](const CountersSnapshot& snapshot) { return show_pool(snapshot, options.form); },
      .form = options.form};
  if (options.command == Command::kList) return show_once(watched).status();
  const UniqueFd signals = take_signals({SIGINT, SIGTERM});
  return watch(watched, options.interval, signals.get());
}

Status run(const Options& options) {
  const bool connects = options.command == Command::kCheck || options.command == Command::kBench;
  if (connects) RETURN_IF_ERROR(ensure_descriptors(kDescriptors));
  ASSIGN_OR_RETURN(const Endpoint endpoint, parse_endpoint(options.endpoint));
  switch (options.command) {
    case Command::kList:
    case Command::kWatch:
      return show_list(endpoint, options);
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
