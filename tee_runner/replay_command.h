#pragma once

#include "base/status.h"
#include "tee_runner/options.h"
#include "tee_runner/stats_reporter.h"

namespace airlock {

/// `tee_runner replay`: connects, replays, prints.
Status run(const ReplayOptions& options, StatsReporter& reporter);

/// Of two things that a command did, one after the other: the first failure decides, a later one is
/// only logged.
Status first_failure(Status first, const Status& later);

}  // namespace airlock
