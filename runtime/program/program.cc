#include "runtime/program/program.h"

#include <sys/signalfd.h>

#include <cerrno>
#include <cstdio>

#include "base/file.h"

namespace airlock {

UniqueFd take_signals(std::initializer_list<int> signals) {
  sigset_t set;
  sigemptyset(&set);
  for (const int number : signals) sigaddset(&set, number);
  // Blocked, an ignored one would come all the same.
  struct sigaction hangup {};
  ::sigaction(SIGHUP, nullptr, &hangup);
  if (sigismember(&set, SIGTERM) == 1 && hangup.sa_handler != SIG_IGN) sigaddset(&set, SIGHUP);
  UniqueFd fd(signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  if (fd.valid()) pthread_sigmask(SIG_BLOCK, &set, nullptr);
  return fd;
}

Status first_failure(Status first, const Status& later) {
  if (first.ok()) return later;
  if (!later.ok()) log_error(later.message());
  return first;
}

Status print(std::string_view text) {
  if (std::fwrite(text.data(), 1, text.size(), stdout) == text.size() && std::fflush(stdout) == 0) {
    return {};
  }
  return os_error("write to stdout", errno);
}

}  // namespace airlock
