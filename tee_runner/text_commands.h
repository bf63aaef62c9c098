#pragma once

#include "base/status.h"
#include "tee_runner/options.h"
#include "tee_runner/stats_reporter.h"

namespace airlock {

/// `tee_runner generate`: one prompt's answer.
Status run(const GenerateOptions& options, StatsReporter& reporter);
/// `tee_runner chat`: a conversation on the terminal, until stdin ends.
Status run(const TalkOptions& options, StatsReporter& reporter);

/// `tee_runner serve`: an endpoint, until a signal ends it.
Status run(const EndpointOptions& options, StatsReporter& reporter);

}  // namespace airlock
