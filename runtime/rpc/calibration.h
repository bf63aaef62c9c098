#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "pool/lease.h"
#include "proto/path.h"
#include "runtime/channel/channel.h"

namespace airlock {

/// How long one size took, there and back: written, read and copied at both ends.
struct TriedSize {
  std::size_t bytes = 0;
  // The ring's rival: the pool, or ZeroMQ where the session has no room there.
  Path rival = Path::kZmq;
  std::uint64_t ring_ns = 0;  // medians
  std::uint64_t rival_ns = 0;
};

/// The path limit that a session found by trying (gpu_server --path-limit auto).
struct Calibration {
  std::uint32_t path_limit = 0;  // 0: nothing was tried
  std::vector<TriedSize> tried;
  /// For people: the limit, and what each size took.
  std::string text() const;
};

/// The smallest size from which on the rival was faster by more than the noise of such a trial, at
/// each size that was tried; `most` where there is none. `tried` is in ascending order.
std::size_t choose_path_limit(std::span<const TriedSize> tried, std::size_t most);

/// Runner, before the first request: sends tensors of ascending sizes both ways, for at most 100 ms
/// on an idle machine, and tells the server what it chose. `lease` may be null. What the peer does
/// wrong is kProtocolError; that it does nothing for seconds kDeadlineExceeded.
Result<Calibration> lead_calibration(Channel& channel, PoolLease* lease);
/// Server: answers, and returns the limit that the runner found.
Result<std::uint32_t> follow_calibration(Channel& channel);

}  // namespace airlock
