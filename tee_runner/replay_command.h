#pragma once

#include "base/status.h"
#include "tee_runner/options.h"
#include "tee_runner/stats_reporter.h"

namespace airlock {

/// `tee_runner replay`: connects, replays, prints.
Status run(const ReplayOptions& options, StatsReporter& reporter);

}  // namespace airlock
