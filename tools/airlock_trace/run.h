#pragma once

#include "base/status.h"
#include "tools/airlock_trace/options.h"

namespace airlock::trace {

/// Does what the command line asks for: results to stdout or the named file, notes and warnings to
/// the log. kInvalidInput for a bad file, kUsage where the output is an input, kResourceExhausted
/// where the disk is full.
Status run(const Options& options);

}  // namespace airlock::trace
