#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "base/status.h"
#include "runtime/stats/counters_reader.h"

namespace airlock {

/// kUsage unless `address` is HOST:PORT with a numeric host or localhost, on loopback unless
/// `beyond_loopback`.
Status check_metrics_address(const std::string& address, bool beyond_loopback);

/// An HTTP server with two threads of its own, which sleep until somebody asks for /metrics: the
/// Prometheus text format, defined metric by metric in docs/STATS.md.
class MetricsEndpoint {
 public:
  /// `collect` is called from the endpoint's threads, and gives sums over all sessions; while the
  /// model is loading the server has no device and no dtype. kUsage as check_metrics_address();
  /// kInUse, kResourceExhausted where the address cannot be listened at.
  static Result<std::unique_ptr<MetricsEndpoint>> start(const std::string& address,
                                                        bool beyond_loopback,
                                                        std::function<CountersSnapshot()> collect);
  virtual ~MetricsEndpoint() = default;  // ends the threads
  /// "http://127.0.0.1:9464/metrics", with the real port.
  virtual std::string url() const = 0;
};

}  // namespace airlock
