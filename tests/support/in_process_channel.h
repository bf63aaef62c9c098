#pragma once

#include <memory>
#include <utility>

#include "runtime/channel/channel.h"

namespace airlock {

/// Two ends of a Channel inside one process; each end belongs to one thread. Tensors are
/// handed over by pointer, on the paths that `policy` says. At most policy.slot_count (64 without a
/// ring) messages a direction are prepared or wait to be received; leases hold back nobody. The end
/// of one end is kUnavailable at the other, once it has received what was sent.
std::pair<std::unique_ptr<Channel>, std::unique_ptr<Channel>> make_in_process_pair(
    const PathPolicy& policy);

}  // namespace airlock
