#include "runtime/program/program.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/file.h"

namespace airlock {

Status hold_standard_descriptors() {
  for (const int wanted : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    if (::fcntl(wanted, F_GETFD) >= 0) continue;
    // The least number that is free, which is this one. The root is always there, /dev/null is not,
    // and what is opened as a place only can be neither read nor written.
    if (::open("/", O_PATH) != wanted)
      return os_error(fmt::format("hold the closed descriptor {}", wanted), errno);
  }
  return {};
}

namespace {

/// signalfd() of a kernel that has none, as Gramine's: a thread takes the signals, to the process's
/// end, and hands them on through a pipe. Those that are for one thread alone it does not get.
UniqueFd signals_through_a_pipe(const sigset_t& set) {
  int ends[2] = {-1, -1};
  if (::pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0) return {};
  UniqueFd reader(ends[0]);
  auto thread = start_thread("signals", [set, end = ends[1]] {
    const UniqueFd writer(end);
    for (;;) {
      signalfd_siginfo info{};
      const int number = ::sigwaitinfo(&set, nullptr);
      if (number <= 0 && errno == EINTR) continue;
      if (number <= 0) return;
      info.ssi_signo = static_cast<std::uint32_t>(number);
      // Where nobody reads 512 of them enough were told.
      if (::write(writer.get(), &info, sizeof(info)) < 0 && errno != EAGAIN && errno != EINTR)
        return;
    }
  });
  if (!thread.ok()) {
    ::close(ends[1]);
    errno = EAGAIN;
    return {};
  }
  thread->detach();
  return reader;
}

}  // namespace

UniqueFd take_signals(std::initializer_list<int> signals) {
  sigset_t set;
  sigemptyset(&set);
  for (const int number : signals) sigaddset(&set, number);
  // Blocked, an ignored one would come all the same.
  struct sigaction hangup {};
  ::sigaction(SIGHUP, nullptr, &hangup);
  if (sigismember(&set, SIGTERM) == 1 && hangup.sa_handler != SIG_IGN) sigaddset(&set, SIGHUP);
  UniqueFd fd(signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!fd.valid() && errno == ENOSYS) fd = signals_through_a_pipe(set);
  if (fd.valid()) pthread_sigmask(SIG_BLOCK, &set, nullptr);
  return fd;
}

bool signalled(int signal_fd, Deadline deadline) {
  do {
    const auto left_ms = std::chrono::ceil<std::chrono::milliseconds>(deadline.remaining()).count();
    pollfd waiting{signal_fd, POLLIN, 0};
    if (::poll(&waiting, 1, static_cast<int>(std::min<std::int64_t>(left_ms, 60'000))) > 0)
      return true;
  } while (!deadline.expired());
  return false;
}

Status first_failure(Status first, const Status& later) {
  if (first.ok()) return later;
  if (!later.ok()) log_error(later.message());
  return first;
}

Status print(std::string_view text) { return write_all(STDOUT_FILENO, text, "to stdout"); }

bool stdout_has_no_reader() {
  pollfd out{STDOUT_FILENO, POLLOUT, 0};
  return ::poll(&out, 1, 0) > 0 && (out.revents & (POLLERR | POLLHUP)) != 0;
}

}  // namespace airlock
