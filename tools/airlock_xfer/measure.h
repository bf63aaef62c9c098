#pragma once

#include <cstdint>
#include <optional>

#include "tools/airlock_xfer/host_buffer.h"
#include "tools/airlock_xfer/pair.h"
#include "tools/airlock_xfer/table.h"

namespace airlock::xfer {

/// Measures rows over one Pair. One thread; the pair outlives it.
///
/// An echo is timed from prepare() to the received reply: one copy from private memory into the
/// place where the tensor travels, its way, the peer's copy into the reply's place, and the way
/// back. A check reads the reply in place after the clock was stopped. In stream mode the peer
/// copies each tensor out before its small reply; checks are a pass of their own.
class Meter {
 public:
  explicit Meter(Pair& pair) : pair_(pair) {}

  /// nullopt where the path (nullopt: auto) cannot carry this size. Errors: as the channels'; kBusy
  /// and kDeadlineExceeded where the peer stalled.
  Result<std::optional<Measured>> measure(std::optional<Path> path, std::size_t bytes);

 private:
  Status start_size(std::size_t bytes);

  Pair& pair_;
  // Of the size under way.
  HostBuffer source_;
  double memcpy_ns_ = 0;
  std::uint64_t row_ = 0;
};

}  // namespace airlock::xfer
