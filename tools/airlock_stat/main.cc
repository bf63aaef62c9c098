#include "base/log.h"
#include "tools/airlock_stat/options.h"
#include "tools/airlock_stat/run.h"

int main(int argc, char** argv) {
  airlock::set_log_name("airlock_stat");
  auto options = airlock::parse_stat_options(argc, argv);
  airlock::Status status = options.status();
  if (options.ok()) {
    if (!options->has_value()) return 0;
    status = airlock::run_stat(**options);
  }
  if (!status.ok()) airlock::log_error(status.message());
  return airlock::exit_code(status.code());
}
