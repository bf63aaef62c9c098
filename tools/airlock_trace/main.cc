#include "runtime/program/program.h"
#include "tools/airlock_trace/options.h"
#include "tools/airlock_trace/run.h"

int main(int argc, char** argv) {
  using namespace airlock;
  return run_program(
      "airlock_trace", [&] { return trace::parse_options(argc, argv); }, trace::run);
}
