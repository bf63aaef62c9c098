#pragma once

#include "base/status.h"
#include "tools/airlock_xfer/pair.h"
#include "tools/airlock_xfer/table.h"

namespace airlock::xfer {

/// Measures each size by each path, as the pair's options say, and adds a row of each to `table`.
/// An error names the row and says what became of the peer.
///
/// An echo is timed from prepare() to the received reply: one copy from private memory into the
/// place where the tensor travels, its way, the peer's copy into the reply's place, and the way
/// back. A check reads the reply in place after the clock was stopped. In stream mode the peer
/// copies each tensor out before its small reply; checks are a pass of their own.
Status measure_all(Pair& pair, ResultTable& table);

}  // namespace airlock::xfer
