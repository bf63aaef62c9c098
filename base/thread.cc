#include "base/thread.h"

#include <signal.h>

#include <system_error>
#include <utility>

namespace airlock {

Result<std::thread> start_thread(const std::string& what, std::function<void()> root) {
  sigset_t signals;
  sigset_t before;
  sigfillset(&signals);
  for (const int fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT})
    sigdelset(&signals, fault);
  pthread_sigmask(SIG_BLOCK, &signals, &before);
  Result<std::thread> started = [&]() -> Result<std::thread> {
    try {
      return std::thread(std::move(root));
    } catch (const std::system_error& error) {
      return Status(StatusCode::kResourceExhausted,
                    "no thread for {}: {}; raise the limit of processes (ulimit -u, the cgroup's "
                    "pids.max) or of memory",
                    what, error.code().message());
    } catch (const std::bad_alloc&) {
      return Status(StatusCode::kResourceExhausted, "no thread for {}: out of memory", what);
    }
  }();
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return started;
}

}  // namespace airlock
