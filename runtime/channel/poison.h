#pragma once

#include <atomic>

#include "base/status.h"
#include "runtime/stats/transport_stats.h"

namespace airlock {

/// The status that ended a channel; every later call returns it. One thread.
class Poison {
 public:
  /// ok while the channel lives.
  const Status& status() const { return status_; }
  /// Ends the channel with `status` (the first one stays). Counted as an error of `path`, except
  /// where the peer left or shutdown was asked for: every clean session ends so.
  Status set(Status status, PathStats& path) {
    if (!status_.ok()) return status_;
    status_ = std::move(status);
    const StatusCode code = status_.code();
    if (code != StatusCode::kCancelled && code != StatusCode::kUnavailable) {
      path.errors.fetch_add(1, std::memory_order_relaxed);
    }
    return status_;
  }

 private:
  Status status_;
};

}  // namespace airlock
