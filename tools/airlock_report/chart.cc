#include "tools/airlock_report/chart.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "tools/airlock_report/bins.h"
#include "tools/airlock_report/format.h"

namespace airlock::report {
namespace {

constexpr int kRowPixels = 30;
constexpr int kBarPixels = 20;
constexpr double kPlotUnits = 1000;  // of a plot's viewBox, both ways

struct SeriesLook {
  std::string_view id;
  std::string_view name;
  std::string_view hatch;  // drawn over the colour, in a tile of 8 by 8
};
constexpr std::array<SeriesLook, 8> kLooks = {{
    {"tee", "TEE (encoding, checking)", "<path d=\"M0 2H8M0 6H8\"/>"},
    {"wire", "wire", "<path d=\"M-2 2L2 -2M0 8L8 0M6 10L10 6\"/>"},
    {"queue", "queue (server's word)",
     "<circle cx=\"2\" cy=\"2\" r=\"1\"/><circle cx=\"6\" cy=\"6\" r=\"1\"/>"},
    {"server", "server (its word)", ""},
    {"kernel", "TEE kernels", "<path d=\"M2 0V8M6 0V8\"/>"},
    {"between", "between ops (TEE)", "<path d=\"M0 4H8M4 0V8\"/>"},
    {"ring", "ring", ""},
    {"zmq", "ZeroMQ", "<path d=\"M-2 2L2 -2M0 8L8 0M6 10L10 6\"/>"},
}};
const SeriesLook& look(Series series) { return kLooks[static_cast<std::size_t>(series)]; }

std::string in_words(std::uint64_t value, Unit unit) {
  switch (unit) {
    case Unit::kTime:
      return human_time(value);
    case Unit::kBytes:
      return human_bytes(value);
    case Unit::kCount:
      return grouped(value);
  }
  return {};
}

std::string svg_open(std::size_t id, const ChartText& text, std::string_view attributes) {
  return fmt::format(
      "<svg role=\"img\" aria-labelledby=\"chart{0}-title chart{0}-desc\" {1}><title "
      "id=\"chart{0}-title\">{2}</title><desc id=\"chart{0}-desc\">{3}</desc>\n",
      id, attributes, escape_html(text.title), escape_html(text.description));
}

/// A share as a percentage with three decimals, without a needless end: "12.5", "0".
std::string share(double part, double whole) {
  return fmt::format("{:.6g}", std::round(100'000 * part / whole) / 1000);
}

std::uint64_t total_of(const BarRow& row) {
  std::uint64_t total = 0;
  for (const Segment& segment : row.segments) total = add_saturating(total, segment.value);
  return total;
}

/// The scale, the marks and the words around a plot; `marks` are drawn within its viewBox.
std::string plot_figure(ChartIds& ids, const Plot& plot, const Axis& y, const std::string& marks) {
  std::string lines;
  for (const Tick& tick : y.ticks) {
    const double at = kPlotUnits * (1 - y.place(tick.value));
    lines += fmt::format("<path class=\"rule\" d=\"M0 {0:.6g}H1000\"/>", at);
  }
  std::string over;
  std::string above;
  for (const Mark& mark : plot.x_marks) {
    const double at = plot.x.place(mark.value);
    over += fmt::format("<path class=\"mark\" d=\"M{:.6g} 0V1000\"/>", kPlotUnits * at);
    above +=
        fmt::format("<div><span style=\"left:{0}%;transform:translateX(-{0}%)\">{1}</span></div>",
                    share(at, 1), escape_html(mark.label));
  }
  for (const Mark& mark : plot.y_marks) {
    over += fmt::format("<path class=\"limit\" d=\"M0 {:.6g}H1000\"/>",
                        kPlotUnits * (1 - y.place(mark.value)));
  }
  std::string left;
  for (const Tick& tick : y.ticks) {
    left += fmt::format("<span style=\"bottom:{}%\">{}</span>", share(y.place(tick.value), 1),
                        escape_html(tick.label));
  }
  std::string right;
  for (const Mark& mark : plot.y_marks) {
    right += fmt::format("<span class=\"limit\" style=\"bottom:{}%\">{}</span>",
                         share(y.place(mark.value), 1), escape_html(mark.label));
  }
  std::string below;
  for (const Tick& tick : plot.x.ticks) {
    below += fmt::format("<span style=\"left:{}%\">{}</span>", share(plot.x.place(tick.value), 1),
                         escape_html(tick.label));
  }
  return fmt::format(
      "<figure class=\"plot\"><figcaption>{}</figcaption>\n<p class=\"ylabel\">{}</p><div "
      "class=\"marks\">{}</div><div class=\"body\"><div class=\"yaxis\">{}</div><div "
      "class=\"area\">{}{}{}{}</svg>{}</div><div class=\"xaxis\">{}</div><p "
      "class=\"xlabel\">{}</p></div></figure>\n",
      escape_html(plot.text.title), escape_html(plot.y_label), above, left,
      svg_open(ids.next(), plot.text, "viewBox=\"0 0 1000 1000\" preserveAspectRatio=\"none\""),
      lines, marks, over, right, below, escape_html(plot.x.label));
}

Axis y_axis(const Plot& plot) {
  std::uint64_t most = 1;
  for (const Column& column : plot.columns) most = std::max(most, column.value);
  for (const Mark& mark : plot.y_marks) most = std::max(most, mark.value);
  return linear_axis(most, plot.unit, {});
}

}  // namespace

std::string_view series_name(Series series) { return look(series).name; }
std::string_view series_id(Series series) { return look(series).id; }

std::string stacked_bars(ChartIds& ids, const ChartText& text, const std::vector<BarRow>& rows,
                         Unit unit) {
  std::uint64_t most = 1;
  for (const BarRow& row : rows) most = std::max(most, total_of(row));
  std::string labels;
  std::string values;
  std::string bars;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    labels += fmt::format("<div>{}</div>", html_text(rows[i].label));
    values += fmt::format("<div>{}</div>", escape_html(rows[i].value));
    double begin = 0;
    for (const Segment& segment : rows[i].segments) {
      if (segment.value == 0) continue;
      const auto length = static_cast<double>(segment.value);
      bars += fmt::format(
          "<rect x=\"{}%\" y=\"{}\" width=\"{}%\" height=\"{}\" fill=\"url(#p-{})\"><title>{}: {} "
          "{}</title></rect>",
          share(begin, static_cast<double>(most)),
          kRowPixels * static_cast<int>(i) + (kRowPixels - kBarPixels) / 2,
          share(length, static_cast<double>(most)), kBarPixels, series_id(segment.series),
          escape_html(rows[i].label), series_name(segment.series), in_words(segment.value, unit));
      begin += length;
    }
    bars += '\n';
  }
  const std::string size = fmt::format("width=\"100%\" height=\"{}\"",
                                       kRowPixels * std::max<std::size_t>(rows.size(), 1));
  return fmt::format(
      "<figure class=\"bars\"><figcaption>{}</figcaption>\n<div class=\"grid\"><div "
      "class=\"labels\">{}</div>{}{}</svg><div class=\"values\">{}</div></div></figure>\n",
      escape_html(text.title), labels, svg_open(ids.next(), text, size), bars, values);
}

double Axis::place(std::uint64_t value) const {
  const auto at = static_cast<double>(value);
  const double part =
      log ? (std::log(std::max(at, low)) - std::log(low)) / (std::log(high) - std::log(low))
          : (at - low) / (high - low);
  return std::clamp(part, 0.0, 1.0);
}

Axis linear_axis(std::uint64_t high, Unit unit, std::string label) {
  Axis axis;
  axis.ticks = linear_ticks(high, 4, unit);
  axis.high = static_cast<double>(axis.ticks.back().value);
  axis.label = std::move(label);
  return axis;
}

Axis log_time_axis(std::uint64_t low, std::uint64_t high, std::string label) {
  Axis axis;
  axis.log = true;
  axis.low = static_cast<double>(std::max<std::uint64_t>(low, 1));
  axis.high = std::max(static_cast<double>(high), 2 * axis.low);
  axis.ticks = log_ticks(low, high, 5);
  axis.label = std::move(label);
  return axis;
}

std::string column_plot(ChartIds& ids, const Plot& plot) {
  constexpr double kLeastHeight = 8;  // a column of 1 is seen beside one of a million
  const Axis y = y_axis(plot);
  std::string marks;
  for (const Column& column : plot.columns) {
    const double left = kPlotUnits * plot.x.place(column.low);
    const double right = kPlotUnits * plot.x.place(column.high);
    const double height = std::max(kPlotUnits * y.place(column.value), kLeastHeight);
    marks += fmt::format(
        "<rect class=\"s-{}\" x=\"{:.5g}\" y=\"{:.5g}\" width=\"{:.4g}\" height=\"{:.5g}\"/>",
        series_id(plot.series), left, kPlotUnits - height, std::max(right - left, 1.0), height);
  }
  return plot_figure(ids, plot, y, marks);
}

std::string area_plot(ChartIds& ids, const Plot& plot) {
  const Axis y = y_axis(plot);
  std::string path;
  double end = -1;
  for (const Column& column : plot.columns) {
    const double left = kPlotUnits * plot.x.place(column.low);
    const double right = kPlotUnits * plot.x.place(column.high);
    const double top = kPlotUnits * (1 - y.place(column.value));
    if (left > end + 0.01)
      path += fmt::format("{}M{:.5g} 1000", path.empty() ? "" : "V1000Z", left);
    path += fmt::format("V{:.4g}H{:.5g}", top, right);
    end = right;
  }
  if (!path.empty()) path += "V1000Z";
  return plot_figure(
      ids, plot, y,
      fmt::format("<path class=\"s-{0} o-{0}\" d=\"{1}\"/>", series_id(plot.series), path));
}

std::string legend(const std::vector<Series>& series) {
  std::string items;
  for (const Series one : series) {
    items += fmt::format(
        "<li><svg aria-hidden=\"true\" width=\"22\" height=\"14\"><rect width=\"22\" height=\"14\" "
        "fill=\"url(#p-{})\"/></svg> {}</li>",
        series_id(one), series_name(one));
  }
  return fmt::format("<ul class=\"legend\">{}</ul>\n", items);
}

std::string pattern_definitions() {
  std::string patterns;
  for (const SeriesLook& one : kLooks) {
    patterns += fmt::format(
        "<pattern id=\"p-{0}\" width=\"8\" height=\"8\" patternUnits=\"userSpaceOnUse\"><rect "
        "class=\"s-{0}\" width=\"8\" height=\"8\"/><g class=\"hatch\">{1}</g></pattern>",
        one.id, one.hatch);
  }
  return fmt::format(
      "<svg aria-hidden=\"true\" width=\"0\" height=\"0\" class=\"defs\"><defs>{}</defs></svg>\n",
      patterns);
}

}  // namespace airlock::report
