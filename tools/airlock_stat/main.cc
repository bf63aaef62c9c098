#include "runtime/program/program.h"
#include "tools/airlock_stat/options.h"
#include "tools/airlock_stat/run.h"

int main(int argc, char** argv) {
  using namespace airlock;
  return run_program(
      "airlock_stat", [&] { return parse_stat_options(argc, argv); }, run_stat);
}
