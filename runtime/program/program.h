#pragma once

#include <signal.h>

#include <initializer_list>
#include <string_view>

#include "base/deadline.h"
#include "base/log.h"
#include "base/sink.h"
#include "base/status.h"
#include "base/thread.h"
#include "base/unique_fd.h"

namespace airlock {

/// Blocks `signals` in this thread and in those that it starts, and gives a descriptor from which
/// they are read (signalfd_siginfo): no handler interrupts anything. Before any other thread.
/// SIGHUP asks for what SIGTERM does and is taken with it, unless it was ignored at start, as under
/// nohup. In a kernel without signalfd a thread of its own takes them, to the process's end. Not
/// valid, errno telling why, and nothing blocked: there is no descriptor.
UniqueFd take_signals(std::initializer_list<int> signals);

/// Whether one of them came on take_signals()'s descriptor before `deadline`.
bool signalled(int signal_fd, Deadline deadline);

/// Descriptors 0, 1 and 2 of a process that was started with one of them closed are taken by what
/// reads and writes nothing and says so (EBADF): else the next file that is opened would get the
/// number, and what is meant for stdout or a log would land in it. kResourceExhausted where no
/// descriptor can be had.
Status hold_standard_descriptors();

/// The main of a program: `parse()` gives a Result<std::optional<Options>>, in which nullopt means
/// that --help or --version was printed; `run(options)` gives a Status. An error is logged here,
/// and nowhere else, memory that ran out among them; the exit code is docs/INTERFACE.md's. A file
/// that may grow no more is an error of that write and never a signal. A stdout whose reader is
/// gone ends the program as it ends others (SIGPIPE), unless `run` ignores that signal: a program
/// with a peer or files of its own to look after does.
template <typename Parse, typename Run>
int run_program(const char* name, const Parse& parse, const Run& run) {
  set_log_name(name);
  signal(SIGXFSZ, SIG_IGN);
  const Status status = without_exceptions([&]() -> Status {
    RETURN_IF_ERROR(hold_standard_descriptors());
    const auto options = parse();
    if (!options.ok() || !options->has_value()) return options.status();
    return run(**options);
  });
  if (!status.ok()) log_error(status.message());
  flush_sinks();
  return exit_code(status.code());
}

/// Of two things that a program did, one after the other: the first failure decides, a later one is
/// only logged.
Status first_failure(Status first, const Status& later);

/// All of `text` on stdout, at once: everything that a program has for stdout goes by here. Errors
/// as os_error().
Status print(std::string_view text);
/// Whether stdout is a pipe or a socket whose reader is gone: nobody wants what is printed there.
bool stdout_has_no_reader();

}  // namespace airlock
