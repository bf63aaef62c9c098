#pragma once

#include "base/status.h"
#include "tools/airlock_stat/options.h"

namespace airlock {

/// Prints to stdout: once, or until SIGINT, SIGTERM or the server's end. kUnavailable: there is no
/// server, or it was killed (its figures are printed all the same).
Status run_stat(const StatOptions& options);

}  // namespace airlock
