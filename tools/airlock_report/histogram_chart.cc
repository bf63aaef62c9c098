#include "tools/airlock_report/histogram_chart.h"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "tools/airlock_report/format.h"

namespace airlock::report {
namespace {

std::vector<Column> columns_of(const HistogramSnapshot& histogram) {
  HistogramSnapshot all;
  all.counts.fill(1);
  const auto edges = all.buckets();
  std::vector<Column> columns;
  for (std::size_t i = 0; i < edges.size(); ++i) {
    if (histogram.counts[i] == 0) continue;
    const std::uint64_t upper = edges[i].first;
    columns.push_back({i == 0 ? 1 : edges[i - 1].first + 1, upper == UINT64_MAX ? upper : upper + 1,
                       histogram.counts[i]});
  }
  return columns;
}

}  // namespace

void TimeRange::take(const HistogramSnapshot& histogram) {
  const std::vector<Column> columns = columns_of(histogram);
  if (columns.empty()) return;
  low = std::min(low, columns.front().low);
  high = std::max(high, columns.back().high);
}

std::string histogram_plot(ChartIds& ids, const HistogramText& text,
                           const HistogramSnapshot& histogram, const TimeRange& range) {
  Plot plot;
  plot.columns = columns_of(histogram);
  if (plot.columns.empty()) return {};
  plot.text.title = text.title;
  plot.series = text.series;
  plot.x = log_time_axis(range.low, range.high, text.x_label);
  plot.y_label = text.y_label;
  for (const auto& [name, share] : kPercentiles) {
    const std::uint64_t value = histogram.percentile(share);
    plot.x_marks.push_back({value, fmt::format("{} {}", name, human_time(value))});
  }
  plot.text.description = fmt::format(
      "Histogram of {} {}: median {}, 90 % within {}, 99 % within {}, the longest {}.",
      histogram.count(), text.y_label, plot.x_marks[0].label.substr(4),
      plot.x_marks[1].label.substr(4), plot.x_marks[2].label.substr(4), human_time(histogram.max));
  return column_plot(ids, plot);
}

void add_percentiles(Table& table, const std::string& prefix, const HistogramSnapshot& histogram) {
  table.number(prefix + "count", histogram.count());
  for (const auto& [name, share] : kPercentiles)
    table.number(fmt::format("{}{}", prefix, name), histogram.percentile(share));
  table.number(prefix + "max", histogram.max);
}

void add_buckets(Table& table, std::string_view head, const std::string& prefix,
                 const HistogramSnapshot& histogram) {
  for (const auto& [upper, count] : histogram.buckets()) {
    table.row(head);
    table.derived(grouped(upper));
    table.derived(human_time(upper));
    table.number(fmt::format("{}buckets.{}", prefix, upper), count);
  }
}

}  // namespace airlock::report
