#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "runtime/stats/histogram.h"
#include "tools/airlock_report/chart.h"
#include "tools/airlock_report/table.h"

namespace airlock::report {

/// What several histograms of times cover together: charts side by side share it. A plain value.
struct TimeRange {
  std::uint64_t low = UINT64_MAX;
  std::uint64_t high = 1;
  void take(const HistogramSnapshot& histogram);
};

struct HistogramText {
  std::string title;
  std::string x_label;
  std::string y_label;  // what is counted, "ops"
  Series series;
};
/// A histogram of times with its percentiles marked; nothing for an empty one.
std::string histogram_plot(ChartIds& ids, const HistogramText& text,
                           const HistogramSnapshot& histogram, const TimeRange& range);

/// Cells of a row: count, percentiles and maximum, under `prefix`.
void add_percentiles(Table& table, const std::string& prefix, const HistogramSnapshot& histogram);
/// A row for each bucket that is not empty: upper edge, the same for people, count.
void add_buckets(Table& table, std::string_view head, const std::string& prefix,
                 const HistogramSnapshot& histogram);

}  // namespace airlock::report
