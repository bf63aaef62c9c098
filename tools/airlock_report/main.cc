#include "runtime/program/program.h"
#include "tools/airlock_report/options.h"
#include "tools/airlock_report/run.h"

int main(int argc, char** argv) {
  using namespace airlock;
  return run_program(
      "airlock_report", [&] { return report::parse_options(argc, argv); }, report::run);
}
