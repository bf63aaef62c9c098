#pragma once

#include <vector>

#include "base/status.h"
#include "tools/airlock_xfer/peer.h"
#include "tools/airlock_xfer/table.h"

namespace airlock::xfer {

struct Outcome {
  Status status;  // kMismatch where bytes were wrong
  std::vector<Row> rows;
};

/// The whole benchmark: forks the peer, measures each (size, path), writes the table to `sink` also
/// where it ends early. Call it while the process has one thread. `signal_fd`: a signalfd that ends
/// the run, or -1.
Outcome run(const Options& options, const ResultTable::Sink& sink, int signal_fd = -1,
            const Hooks& hooks = {});

}  // namespace airlock::xfer
