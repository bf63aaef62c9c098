#pragma once

#include <functional>
#include <memory>

#include "pool/pool_map.h"
#include "runtime/channel/carrier.h"

namespace airlock {

/// Carries the tensors that have a place in a pool: they lie there, written by one end and read in
/// place by the other, and nothing crosses but the place, in the request's header. Holds no place:
/// the runner keeps those of a request and its reply from before the request until it needs neither
/// any more (docs/adr/0017). `leased` is the session's, as this process maps it, and outlives the
/// carrier; `faulted` says whether some of that memory was lost. kProtocolError for a place that is
/// not in it, kResourceExhausted where it was lost.
std::unique_ptr<Carrier> make_pool_carrier(PoolMap leased, std::function<bool()> faulted = {});

}  // namespace airlock
