#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "base/status.h"
#include "runtime/stats/op_stats.h"
#include "runtime/stats/transport_stats.h"

namespace airlock {

/// What the metrics are made of: the server's counters at one moment. A plain value.
struct MetricsSnapshot {
  TransportSnapshot transport;  // sums over all sessions, as in its report
  OpSnapshotTable ops;
  OpHistogramSnapshots service_ns;
  std::string device;  // empty while the model is loading
  std::string dtype;
  std::uint64_t start_unix_ns = 0;
  std::uint64_t heartbeat_age_ns = 0;
  std::uint64_t sessions_active = 0;
  std::uint64_t sessions_started = 0;
  std::uint64_t sessions_refused = 0;
  std::uint64_t max_clients = 0;
};

/// kUsage unless `address` is HOST:PORT with a numeric host or localhost, on loopback unless
/// `beyond_loopback`.
Status check_metrics_address(const std::string& address, bool beyond_loopback);

/// An HTTP server with two threads of its own, which sleep until somebody asks for /metrics: the
/// Prometheus text format, defined metric by metric in docs/STATS.md.
class MetricsEndpoint {
 public:
  /// `collect` is called from the endpoint's threads. kUsage as check_metrics_address(); kInUse,
  /// kResourceExhausted where the address cannot be listened at.
  static Result<std::unique_ptr<MetricsEndpoint>> start(const std::string& address,
                                                        bool beyond_loopback,
                                                        std::function<MetricsSnapshot()> collect);
  virtual ~MetricsEndpoint() = default;  // ends the threads
  /// "http://127.0.0.1:9464/metrics", with the real port.
  virtual std::string url() const = 0;
};

}  // namespace airlock
