#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "runtime/rpc/endpoint.h"
#include "runtime/stats/counters_reader.h"

namespace prometheus {
class Collectable;
class Exposer;
struct MetricFamily;
}  // namespace prometheus

namespace airlock {

/// kUsage unless `address` is HOST:PORT with a numeric host or localhost, on loopback unless
/// `beyond_loopback`.
Status check_metrics_address(const std::string& address, bool beyond_loopback);

/// All metrics, in base units (seconds, bytes), with labels from fixed sets only. Named and
/// explained in docs/STATS.md.
std::vector<prometheus::MetricFamily> metric_families(const CountersSnapshot& snapshot);

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
  ~MetricsEndpoint();  // ends the threads
  MetricsEndpoint(const MetricsEndpoint&) = delete;
  MetricsEndpoint& operator=(const MetricsEndpoint&) = delete;
  /// "http://127.0.0.1:9464/metrics", with the real port.
  std::string url() const;

 private:
  MetricsEndpoint(const Endpoint& endpoint, std::function<CountersSnapshot()> collect);

  const std::shared_ptr<prometheus::Collectable> collector_;  // the exposer keeps a weak_ptr
  std::unique_ptr<prometheus::Exposer> exposer_;
  Endpoint endpoint_;  // with the real port
};

}  // namespace airlock
