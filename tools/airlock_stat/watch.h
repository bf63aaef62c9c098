#pragma once

#include <chrono>
#include <functional>
#include <string>

#include "base/status.h"
#include "runtime/stats/counters_reader.h"
#include "runtime/text/output_form.h"

namespace airlock {

/// What is looked at again and again, and how it is shown.
struct Watched {
  /// kUnavailable: nobody is there.
  std::function<Result<CountersSnapshot>()> look;
  std::function<std::string(const CountersSnapshot&)> show;
  OutputForm form = OutputForm::kMarkdown;
  /// What look() reads is a file, which a server removes at its clean end.
  bool is_file = true;
};

/// Looks and prints to stdout. kUnavailable: there is no server, or it was killed (what it counted
/// last is printed all the same).
Result<CountersSnapshot> show_once(const Watched& watched);
/// The same until a signal comes on `signal_fd`, every `interval`, redrawn on a terminal. Ok at the
/// server's clean end too, which look() has told.
Status watch(const Watched& watched, std::chrono::nanoseconds interval, int signal_fd);

}  // namespace airlock
