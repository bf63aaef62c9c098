#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/status.h"
#include "gpu_server/page_server.h"
#include "runtime/stats/counters_reader.h"

namespace prometheus {
struct MetricFamily;
}  // namespace prometheus

namespace airlock {

/// kUsage unless `address` is HOST:PORT with a numeric host or localhost, on loopback unless
/// `beyond_loopback`.
Status check_metrics_address(const std::string& address, bool beyond_loopback);

/// All metrics, in base units (seconds, bytes), with labels from fixed sets only. Named and
/// explained in docs/STATS.md.
std::vector<prometheus::MetricFamily> metric_families(const CountersSnapshot& snapshot);

/// What is asked of a server, each from the endpoint's thread.
struct ServerLook {
  // Sums over all sessions; while the model is loading the server has no device and no dtype.
  std::function<CountersSnapshot()> counters;
  // Not ok: why it is to be started again; why it takes no new session now.
  std::function<Status()> health;
  std::function<Status()> readiness;
};

/// Serves /metrics in the Prometheus text format, defined metric by metric in docs/STATS.md, and
/// /healthz and /readyz, from a thread of its own, which sleeps until somebody asks.
class MetricsEndpoint {
 public:
  /// kUsage as check_metrics_address(); kInUse, kResourceExhausted where the address cannot be
  /// listened at, or for want of a thread.
  static Result<std::unique_ptr<MetricsEndpoint>> start(const std::string& address,
                                                        bool beyond_loopback, ServerLook look);
  /// "http://127.0.0.1:9464/metrics", with the real port.
  const std::string& url() const { return url_; }

 private:
  MetricsEndpoint(std::unique_ptr<PageServer> server, std::string url)
      : server_(std::move(server)), url_(std::move(url)) {}

  std::unique_ptr<PageServer> server_;
  std::string url_;
};

}  // namespace airlock
