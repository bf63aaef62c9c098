#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/deadline.h"
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
  std::uint64_t ring_ns = 0;  // the fastest of several
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
/// each size that was tried; `most` where there is none. `tried` is in ascending order, and ends
/// with the largest size that there is to try.
std::size_t choose_path_limit(std::span<const TriedSize> tried, std::size_t most);

/// Runner, before the first request: sends tensors of ascending sizes both ways, and tells the
/// server what it chose. No size is begun that would end after 100 ms; unless all were tried, the
/// limit stays what it was. `lease` may be null. kProtocolError: what the server does wrong;
/// kDeadlineExceeded.
Result<Calibration> lead_calibration(Channel& channel, PoolLease* lease, Deadline deadline);
/// Server: answers, and returns the limit that the runner found. Asks `watch` at each trial: a
/// client that never pauses cannot outlive its session. kDeadlineExceeded after 10 s.
Result<std::uint32_t> follow_calibration(Channel& channel, const PeerWatch& watch);

}  // namespace airlock
