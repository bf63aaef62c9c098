#pragma once

#include "runtime/rpc/client.h"
#include "tee_runner/connection_options.h"

namespace airlock {

/// What the options say of the connection; the model's digest and dims are left to the caller.
ConnectOptions connect_options(const ConnectionOptions& options);

}  // namespace airlock
