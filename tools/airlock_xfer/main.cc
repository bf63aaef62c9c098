#include "runtime/program/program.h"
#include "tools/airlock_xfer/run.h"

int main(int argc, char** argv) {
  using namespace airlock;
  const auto measure = [](const xfer::Options& options) {
    const UniqueFd signals = take_signals({SIGINT, SIGTERM, SIGHUP});
    // A row at a time.
    const auto write_out = [](std::string_view text) { (void)print(text); };
    return xfer::run(options, write_out, signals.get()).status;
  };
  return run_program(
      "airlock_xfer", [&] { return xfer::parse_options(argc, argv); }, measure);
}
