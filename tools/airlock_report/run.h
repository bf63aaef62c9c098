#pragma once

#include "base/status.h"
#include "tools/airlock_report/options.h"

namespace airlock::report {

/// Reads the inputs and writes the page. Warnings about cut traces go to the log. kUsage where the
/// output is one of the inputs or an input is given twice; kInvalidInput for a bad file;
/// kResourceExhausted where the disk is full.
Status run(const Options& options);

}  // namespace airlock::report
