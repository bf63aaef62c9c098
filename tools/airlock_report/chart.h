#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "proto/path.h"
#include "tools/airlock_report/format.h"

namespace airlock::report {

/// What a colour and a pattern stand for, the same everywhere on the page.
struct Series {
  // For patterns, and for CSS: style.h has the colour.
  std::string_view id;
  // For legends.
  std::string_view name;
  // Drawn over the colour, in a tile of 8 by 8.
  std::string_view hatch;
};
inline constexpr std::string_view kSlanted = R"(<path d="M-2 2L2 -2M0 8L8 0M6 10L10 6"/>)";
inline constexpr Series kTee = {"tee", "TEE (encoding, checking)", R"(<path d="M0 2H8M0 6H8"/>)"};
inline constexpr Series kWire = {"wire", "wire", kSlanted};
inline constexpr Series kQueue = {"queue", "queue (server's word)",
                                  R"(<circle cx="2" cy="2" r="1"/><circle cx="6" cy="6" r="1"/>)"};
inline constexpr Series kServer = {"server", "server (its word)", ""};
inline constexpr Series kKernel = {"kernel", "TEE kernels", R"(<path d="M2 0V8M6 0V8"/>)"};
inline constexpr Series kBetween = {"between", "between ops (TEE)", R"(<path d="M0 4H8M4 0V8"/>)"};
constexpr Series series_of(Path path) {
  switch (path) {
    case Path::kRing:
      return {name_of(path), "ring", ""};
    case Path::kPool:
      return {name_of(path), "pool", R"(<path d="M4 0V8"/>)"};
    case Path::kZmq:
      return {name_of(path), "ZeroMQ", kSlanted};
  }
  return {};
}

/// Gives each chart of a page an id of its own.
struct ChartIds {
  std::size_t next = 0;
};

/// What a chart says to one who does not see it. Plain text.
struct ChartText {
  std::string title;
  std::string description;
};

// Each function gives a <figure>. Sizes in pixels do not scale with the page, so text stays
// readable on a phone: SVG holds the marks, in percent of its width, and HTML the words.

struct Segment {
  Series series;
  std::uint64_t value = 0;
};
std::uint64_t total_of(const std::vector<Segment>& segments);
struct BarRow {
  std::string label;  // plain text
  std::vector<Segment> segments;
  std::string value;  // plain text beside the bar
};
/// Horizontal bars, the longest as long as the chart; segments of 0 are left out. `unit` is for
/// what a pointer shows.
std::string stacked_bars(ChartIds& ids, const ChartText& text, const std::vector<BarRow>& rows,
                         Unit unit);

/// A mark on an axis.
struct Tick {
  std::uint64_t value = 0;
  std::string label;  // plain text: "20 ms"
};
/// From 0 to the first round value that is not under `max`, in at most `most` equal steps: 1, 2 or
/// 5 times a power of ten, for bytes a power of two.
std::vector<Tick> linear_ticks(std::uint64_t max, std::size_t most, Unit unit);
/// Of an axis with a logarithmic scale: powers of ten within [low, high], every one or every n-th;
/// with 3, or 2 and 5, times them where they are few. Times; at most `most`.
std::vector<Tick> log_ticks(std::uint64_t low, std::uint64_t high, std::size_t most);

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
struct Plot {
  ChartText text;
  Series series;
  Axis x;
  Unit unit = Unit::kCount;     // of y
  std::string y_label;          // plain text, above the plot
  std::vector<Column> columns;  // ascending, without overlap
  std::vector<Tick> x_marks;    // upright lines, labelled above
  std::vector<Tick> y_marks;    // level lines, which the axis always reaches
};
/// Upright columns over their range of x.
std::string column_plot(ChartIds& ids, const Plot& plot);
/// The same as one filled outline: for many columns.
std::string area_plot(ChartIds& ids, const Plot& plot);

/// What one series has in each of a plot's columns.
struct Layer {
  Series series;
  std::vector<std::uint64_t> values;  // one a column
};
/// Upright columns in layers that stand on each other, the first one lowest. A column's value is
/// what its layers add up to.
std::string layered_plot(ChartIds& ids, const Plot& plot, const std::vector<Layer>& layers);

/// The names of the segments' series, with their patterns.
std::string legend(const std::vector<Segment>& segments);
/// The patterns that every chart refers to; once on a page.
std::string pattern_definitions();

}  // namespace airlock::report
