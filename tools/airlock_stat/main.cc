#include <signal.h>

#include "runtime/program/program.h"
#include "tools/airlock_stat/options.h"
#include "tools/airlock_stat/show.h"
#include "tools/airlock_stat/source.h"
#include "tools/airlock_stat/watch.h"

namespace airlock {
namespace {

/// Prints to stdout: once, or until SIGINT, SIGTERM or the server's end. kUnavailable: there is no
/// server, or it was killed (its figures are printed all the same).
Status run_stat(const StatOptions& options) {
  ASSIGN_OR_RETURN(const StatSource source, StatSource::open(options));
  const Watched watched{.look = [&source] { return source.look(); },
                        .show =
                            [&](const CountersSnapshot& snapshot) {
                              return show(snapshot, source.scope(), options.form);
                            },
                        .form = options.form,
                        .is_file = source.scope() == StatSource::Scope::kWholeServer};
  if (!options.watch) return show_once(watched).status();
  // Not before: until then a signal ends the program, however long the server takes to answer.
  const UniqueFd signals = take_signals({SIGINT, SIGTERM});
  return watch(watched, *options.watch, signals.get());
}

}  // namespace
}  // namespace airlock

int main(int argc, char** argv) {
  using namespace airlock;
  return run_program(
      "airlock_stat", [&] { return parse_stat_options(argc, argv); }, run_stat);
}
