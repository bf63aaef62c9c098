#include "tools/airlock_report/chart.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/saturating.h"

namespace airlock::report {
namespace {

constexpr int kRowPixels = 30;
constexpr int kBarPixels = 20;
constexpr double kPlotUnits = 1000;  // of a plot's viewBox, both ways
/// Steps and powers of ten stay under this, so that no multiple of them overflows.
constexpr std::uint64_t kMostValue = std::uint64_t{1} << 62;

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

/// `form` for each tick on its axis: {0} is its place in percent, {1} its label, {2} and {3} its
/// place in a plot's viewBox from the left and from the top.
std::string at_each(const std::vector<Tick>& ticks, const Axis& axis,
                    fmt::format_string<std::string, std::string, double, double> form) {
  std::string all;
  for (const Tick& tick : ticks) {
    const double at = axis.place(tick.value);
    all += fmt::format(form, share(at, 1), escape_html(tick.label), kPlotUnits * at,
                       kPlotUnits * (1 - at));
  }
  return all;
}

/// The scale, the marks and the words around a plot; `marks` are drawn within its viewBox.
std::string plot_figure(ChartIds& ids, const Plot& plot, const Axis& y, const std::string& marks) {
  return fmt::format(
      "<figure class=\"plot\"><figcaption>{}</figcaption>\n<p class=\"ylabel\">{}</p><div "
      "class=\"marks\">{}</div><div class=\"body\"><div class=\"yaxis\">{}</div><div "
      "class=\"area\">{}{}{}{}{}</svg>{}</div><div class=\"xaxis\">{}</div><p "
      "class=\"xlabel\">{}</p></div></figure>\n",
      escape_html(plot.text.title), escape_html(plot.y_label),
      at_each(plot.x_marks, plot.x,
              "<div><span style=\"left:{0}%;transform:translateX(-{0}%)\">{1}</span></div>"),
      at_each(y.ticks, y, R"(<span style="bottom:{0}%">{1}</span>)"),
      svg_open(ids.next++, plot.text, R"(viewBox="0 0 1000 1000" preserveAspectRatio="none")"),
      at_each(y.ticks, y, R"(<path class="rule" d="M0 {3:.6g}H1000"/>)"), marks,
      at_each(plot.x_marks, plot.x, R"(<path class="mark" d="M{2:.6g} 0V1000"/>)"),
      at_each(plot.y_marks, y, R"(<path class="limit" d="M0 {3:.6g}H1000"/>)"),
      at_each(plot.y_marks, y, R"(<span class="limit" style="bottom:{0}%">{1}</span>)"),
      at_each(plot.x.ticks, plot.x, R"(<span style="left:{0}%">{1}</span>)"),
      escape_html(plot.x.label));
}

Axis y_axis(const Plot& plot) {
  std::uint64_t most = 1;
  for (const Column& column : plot.columns) most = std::max(most, column.value);
  for (const Tick& mark : plot.y_marks) most = std::max(most, mark.value);
  return linear_axis(most, plot.unit, {});
}

/// The steps 1, 2, 5, 10, 20, ... or 1, 2, 4, 8, ...
std::uint64_t next_step(std::uint64_t step, Unit unit) {
  if (unit == Unit::kBytes) return step * 2;
  std::uint64_t power = 1;
  while (power <= step / 10) power *= 10;
  return step == 2 * power ? 5 * power : step * 2;
}

}  // namespace

std::uint64_t total_of(const std::vector<Segment>& segments) {
  std::uint64_t total = 0;
  for (const Segment& segment : segments) total = add_saturating(total, segment.value);
  return total;
}

std::string stacked_bars(ChartIds& ids, const ChartText& text, const std::vector<BarRow>& rows,
                         Unit unit) {
  std::uint64_t most = 1;
  for (const BarRow& row : rows) most = std::max(most, total_of(row.segments));
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
          share(length, static_cast<double>(most)), kBarPixels, segment.series.id,
          escape_html(rows[i].label), segment.series.name, in_words(segment.value, unit));
      begin += length;
    }
    bars += '\n';
  }
  const std::string size = fmt::format("width=\"100%\" height=\"{}\"",
                                       kRowPixels * std::max<std::size_t>(rows.size(), 1));
  return fmt::format(
      "<figure class=\"bars\"><figcaption>{}</figcaption>\n<div class=\"grid\"><div "
      "class=\"labels\">{}</div>{}{}</svg><div class=\"values\">{}</div></div></figure>\n",
      escape_html(text.title), labels, svg_open(ids.next++, text, size), bars, values);
}

double Axis::place(std::uint64_t value) const {
  const auto at = static_cast<double>(value);
  const double part =
      log ? (std::log(std::max(at, low)) - std::log(low)) / (std::log(high) - std::log(low))
          : (at - low) / (high - low);
  return std::clamp(part, 0.0, 1.0);
}

std::vector<Tick> linear_ticks(std::uint64_t max, std::size_t most, Unit unit) {
  max = std::clamp<std::uint64_t>(max, 1, kMostValue);
  most = std::max<std::size_t>(most, 1);
  std::uint64_t step = 1;
  while ((max - 1) / step + 1 > most) step = next_step(step, unit);
  std::vector<Tick> ticks;
  const std::uint64_t count = (max - 1) / step + 1;
  for (std::uint64_t i = 0; i <= count; ++i)
    ticks.push_back({i * step, tick_label(i * step, unit)});
  return ticks;
}

std::vector<Tick> log_ticks(std::uint64_t low, std::uint64_t high, std::size_t most) {
  high = std::min(high, kMostValue);
  most = std::max<std::size_t>(most, 1);
  std::vector<std::uint64_t> values;
  const auto fill = [&](std::initializer_list<std::uint64_t> factors) {
    values.clear();
    for (std::uint64_t power = 1; power <= high; power *= 10) {
      for (const std::uint64_t factor : factors) {
        const std::uint64_t value = factor * power;
        if (value >= low && value <= high) values.push_back(value);
      }
    }
  };
  fill({1, 2, 5});
  if (values.size() > most) fill({1, 3});
  if (values.size() > most) fill({1});
  const std::size_t stride = values.empty() ? 1 : (values.size() - 1) / most + 1;
  std::vector<Tick> ticks;
  for (std::size_t i = 0; i < values.size(); i += stride)
    ticks.push_back({values[i], tick_label(values[i], Unit::kTime)});
  return ticks;
}

Axis linear_axis(std::uint64_t high, Unit unit, std::string label) {
  std::vector<Tick> ticks = linear_ticks(high, 4, unit);
  const auto end = static_cast<double>(ticks.back().value);
  return {0, end, false, std::move(ticks), std::move(label)};
}

Axis log_time_axis(std::uint64_t low, std::uint64_t high, std::string label) {
  const auto begin = static_cast<double>(std::max<std::uint64_t>(low, 1));
  const double end = std::max(static_cast<double>(high), 2 * begin);
  return {begin, end, true, log_ticks(low, high, 5), std::move(label)};
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
        plot.series.id, left, kPlotUnits - height, std::max(right - left, 1.0), height);
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
  return plot_figure(ids, plot, y,
                     fmt::format("<path class=\"s-{0} o-{0}\" d=\"{1}\"/>", plot.series.id, path));
}

std::string layered_plot(ChartIds& ids, const Plot& plot, const std::vector<Layer>& layers) {
  const Axis y = y_axis(plot);
  std::vector<std::uint64_t> below(plot.columns.size());
  std::string marks;
  for (const Layer& layer : layers) {
    std::string path;
    for (std::size_t i = 0; i < plot.columns.size(); ++i) {
      if (layer.values[i] == 0) continue;
      const double bottom = kPlotUnits * (1 - y.place(below[i]));
      below[i] = add_saturating(below[i], layer.values[i]);
      path += fmt::format("M{0:.5g} {1:.4g}V{2:.4g}H{3:.5g}V{1:.4g}Z",
                          kPlotUnits * plot.x.place(plot.columns[i].low), bottom,
                          kPlotUnits * (1 - y.place(below[i])),
                          kPlotUnits * plot.x.place(plot.columns[i].high));
    }
    if (!path.empty())
      marks += fmt::format("<path class=\"s-{}\" d=\"{}\"/>", layer.series.id, path);
  }
  return plot_figure(ids, plot, y, marks);
}

std::string legend(const std::vector<Segment>& segments) {
  std::string items;
  for (const Segment& one : segments) {
    items += fmt::format(
        "<li><svg aria-hidden=\"true\" width=\"22\" height=\"14\"><rect width=\"22\" height=\"14\" "
        "fill=\"url(#p-{})\"/></svg> {}</li>",
        one.series.id, one.series.name);
  }
  return fmt::format("<ul class=\"legend\">{}</ul>\n", items);
}

std::string pattern_definitions() {
  std::vector<Series> all = {kTee, kWire, kQueue, kServer, kKernel, kBetween};
  for (const Path path : kPaths) all.push_back(series_of(path));
  std::string patterns;
  for (const Series& one : all) {
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
