#include <csignal>

#include "base/log.h"
#include "tools/airlock_trace/options.h"
#include "tools/airlock_trace/run.h"

int main(int argc, char** argv) {
  airlock::set_log_name("airlock_trace");
  std::signal(SIGXFSZ, SIG_IGN);  // a file that may grow no more is an error of that write
  const auto options = airlock::trace::parse_options(argc, argv);
  airlock::Status status = options.status();
  if (options.ok()) {
    if (!options->has_value()) return 0;
    status = airlock::trace::run(**options);
  }
  if (!status.ok()) airlock::log_error(status.message());
  return airlock::exit_code(status.code());
}
