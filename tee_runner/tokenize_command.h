#pragma once

#include "base/status.h"
#include "tee_runner/options.h"

namespace airlock {

/// `tee_runner tokenize`: from stdin to stdout.
Status run(const TokenizeOptions& options);

}  // namespace airlock
