#include <sys/stat.h>

#include "base/process_limits.h"
#include "runtime/program/program.h"
#include "tools/airlock_xfer/run.h"

namespace {

// Measured: 13 with rings and without, by ipc.
constexpr std::size_t kDescriptors = 24;
// A main thread and a watcher, twice, without this one.
constexpr std::size_t kThreads = 3;

}  // namespace

int main(int argc, char** argv) {
  using namespace airlock;
  const auto measure = [](const xfer::Options& options) -> Status {
    ::umask(0077);  // its sockets are ours alone, and ours to use
    RETURN_IF_ERROR(ensure_descriptors(kDescriptors));
    // Once for both processes, which else could take each other's.
    RETURN_IF_ERROR(ensure_threads(kThreads, "the two processes"));
    const UniqueFd signals = take_signals({SIGINT, SIGTERM});
    // A row at a time.
    return xfer::run(options, print, signals.get()).status;
  };
  return run_program(
      "airlock_xfer", [&] { return xfer::parse_options(argc, argv); }, measure);
}
