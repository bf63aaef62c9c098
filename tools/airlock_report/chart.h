#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "tools/airlock_report/ticks.h"

namespace airlock::report {

/// What a colour and a pattern stand for, the same everywhere on the page.
enum class Series : std::uint8_t { kTee, kWire, kQueue, kServer, kKernel, kBetween, kRing, kZmq };
std::string_view series_name(Series series);  // "TEE", "wire", ..., for legends
std::string_view series_id(Series series);    // "tee", "wire", ..., for CSS and patterns

/// Gives each chart of a page an id of its own.
class ChartIds {
 public:
  std::size_t next() { return next_++; }

 private:
  std::size_t next_ = 0;
};

/// What a chart says to one who does not see it. Plain text.
struct ChartText {
  std::string title;
  std::string description;
};

// Each function gives a <figure>. Sizes in pixels do not scale with the page, so text stays
// readable on a phone: SVG holds the marks, in percent of its width, and HTML the words.

struct Segment {
  Series series = Series::kTee;
  std::uint64_t value = 0;
};
struct BarRow {
  std::string label;  // plain text
  std::vector<Segment> segments;
  std::string value;  // plain text beside the bar
};
/// Horizontal bars, the longest as long as the chart; segments of 0 are left out. `unit` is for
/// what a pointer shows.
std::string stacked_bars(ChartIds& ids, const ChartText& text, const std::vector<BarRow>& rows,
                         Unit unit);

struct Axis {
  double low = 0;
  double high = 1;
  bool log = false;
  std::vector<Tick> ticks;
  std::string label;                        // plain text under the axis
  double place(std::uint64_t value) const;  // 0 to 1
};
Axis linear_axis(std::uint64_t high, Unit unit, std::string label);
/// `low` at least 1 and under `high`.
Axis log_time_axis(std::uint64_t low, std::uint64_t high, std::string label);

struct Column {
  std::uint64_t low = 0;  // from, on the x axis
  std::uint64_t high = 0;
  std::uint64_t value = 0;
};
struct Mark {
  std::uint64_t value = 0;
  std::string label;  // plain text
};
struct Plot {
  ChartText text;
  Series series = Series::kRing;
  Axis x;
  Unit unit = Unit::kCount;     // of y
  std::string y_label;          // plain text, above the plot
  std::vector<Column> columns;  // ascending, without overlap
  std::vector<Mark> x_marks;    // upright lines, labelled above
  std::vector<Mark> y_marks;    // level lines, which the axis always reaches
};
/// Upright columns over their range of x.
std::string column_plot(ChartIds& ids, const Plot& plot);
/// The same as one filled outline: for many columns.
std::string area_plot(ChartIds& ids, const Plot& plot);

/// The names of series with their pattern.
std::string legend(const std::vector<Series>& series);
/// The patterns that every chart refers to; once on a page.
std::string pattern_definitions();

}  // namespace airlock::report
