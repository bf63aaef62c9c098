#pragma once

// Internal to the metrics endpoint.

#include <prometheus/metric_family.h>

#include <vector>

#include "gpu_server/metrics.h"

namespace airlock {

/// All metrics, in base units (seconds, bytes), with labels from fixed sets only. Named and
/// explained in docs/STATS.md.
std::vector<prometheus::MetricFamily> metric_families(const CountersSnapshot& snapshot);

}  // namespace airlock
