#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "tools/airlock_report/chart.h"
#include "tools/airlock_report/format.h"
#include "tools/airlock_report/style.h"
#include "tools/airlock_report/table.h"

namespace airlock::report {
namespace {

using testing::HasSubstr;
using testing::Not;

std::vector<std::string> labels(const std::vector<Tick>& ticks) {
  std::vector<std::string> result;
  for (const Tick& tick : ticks) result.push_back(tick.label);
  return result;
}

TEST(ReportFormat, escapes_markup) {
  EXPECT_EQ(escape_html("<script>alert(\"1\" & '2')</script>"),
            "&lt;script&gt;alert(&quot;1&quot; &amp; &#39;2&#39;)&lt;/script&gt;");
}

TEST(ReportFormat, replaces_controls_and_what_is_not_utf8) {
  EXPECT_EQ(escape_html(std::string("a\0b\n", 4)), "a\uFFFDb\uFFFD");
  EXPECT_EQ(escape_html("\xff"), "\uFFFD");
  EXPECT_EQ(escape_html("\xc3"), "\uFFFD");                      // cut off
  EXPECT_EQ(escape_html("\xc0\xbc"), "\uFFFD\uFFFD");            // '<', overlong
  EXPECT_EQ(escape_html("\xed\xa0\x80"), "\uFFFD\uFFFD\uFFFD");  // a surrogate
  EXPECT_EQ(escape_html("\u00d7\u20ac\U0001F600"), "\u00d7\u20ac\U0001F600");
}

TEST(ReportFormat, shows_three_digits) {
  EXPECT_EQ(human_time(0), "0 ns");
  EXPECT_EQ(human_time(999), "999 ns");
  EXPECT_EQ(human_time(1000), "1.00 µs");
  EXPECT_EQ(human_time(16'303'145), "16.3 ms");
  EXPECT_EQ(human_time(999'600), "1.00 ms");
  EXPECT_EQ(human_time(5'000'000'000'000), "5000 s");
  EXPECT_EQ(human_bytes(1023), "1023 B");
  EXPECT_EQ(human_bytes(23'328'000), "22.2 MiB");
  EXPECT_EQ(grouped(1'234'567), "1\u202f234\u202f567");
}

TEST(ReportTicks, are_round_and_reach_the_greatest) {
  EXPECT_THAT(labels(linear_ticks(11, 4, Unit::kCount)),
              testing::ElementsAre("0", "5", "10", "15"));
  EXPECT_THAT(labels(linear_ticks(17'000'000, 4, Unit::kTime)),
              testing::ElementsAre("0", "5 ms", "10 ms", "15 ms", "20 ms"));
  EXPECT_THAT(labels(linear_ticks(3 << 20, 4, Unit::kBytes)),
              testing::ElementsAre("0", "1 MiB", "2 MiB", "3 MiB"));
  EXPECT_THAT(labels(linear_ticks(0, 4, Unit::kCount)), testing::ElementsAre("0", "1"));
  EXPECT_LE(linear_ticks(UINT64_MAX, 4, Unit::kTime).size(), 5U);
  EXPECT_LE(linear_ticks(UINT64_MAX, 4, Unit::kBytes).size(), 5U);
}

TEST(ReportTicks, of_a_logarithmic_axis_are_few) {
  EXPECT_THAT(labels(log_ticks(20'000, 2'500'000, 5)),
              testing::ElementsAre("30 µs", "100 µs", "300 µs", "1 ms"));
  EXPECT_THAT(labels(log_ticks(60'000, 300'000, 5)), testing::ElementsAre("100 µs", "200 µs"));
  EXPECT_LE(log_ticks(1, UINT64_MAX, 5).size(), 5U);
}

TEST(ReportChart, bars_are_shares_of_the_longest) {
  ChartIds ids;
  const std::string html = stacked_bars(
      ids, {"Title", "Words"},
      {{"a", {{kTee, 100}, {kWire, 300}}, "400 ns"}, {"b", {{kTee, 0}, {kServer, 50}}, "50 ns"}},
      Unit::kTime);
  EXPECT_THAT(
      html, HasSubstr("<rect x=\"0%\" y=\"5\" width=\"25%\" height=\"20\" fill=\"url(#p-tee)\">"));
  EXPECT_THAT(
      html,
      HasSubstr("<rect x=\"25%\" y=\"5\" width=\"75%\" height=\"20\" fill=\"url(#p-wire)\">"));
  EXPECT_THAT(
      html,
      HasSubstr("<rect x=\"0%\" y=\"35\" width=\"12.5%\" height=\"20\" fill=\"url(#p-server)\">"));
  EXPECT_THAT(html,
              HasSubstr("<title id=\"chart0-title\">Title</title><desc id=\"chart0-desc\">Words"));
  EXPECT_THAT(html, HasSubstr("height=\"60\""));
}

TEST(ReportChart, bars_of_nothing_are_drawn) {
  ChartIds ids;
  EXPECT_THAT(stacked_bars(ids, {"T", "D"}, {{"a", {{kTee, 0}}, "0"}}, Unit::kTime),
              Not(HasSubstr("<rect")));
}

Plot sample_plot() {
  Plot plot;
  plot.text = {"T<", "D"};
  plot.x = linear_axis(100, Unit::kCount, "x");
  plot.columns = {{0, 25, 2}, {25, 50, 4}, {75, 100, 1}};
  return plot;
}

TEST(ReportChart, an_area_has_a_step_for_each_column_and_a_gap_between) {
  ChartIds ids;
  EXPECT_THAT(area_plot(ids, sample_plot()),
              HasSubstr("d=\"M0 1000V500H250V0H500V1000ZM750 1000V750H1000V1000Z\""));
}

TEST(ReportChart, layers_stand_on_each_other) {
  ChartIds ids;
  const std::string html =
      layered_plot(ids, sample_plot(), {{kTee, {1, 0, 1}}, {kWire, {1, 4, 0}}});
  EXPECT_THAT(html,
              HasSubstr("class=\"s-tee\" d=\"M0 1000V750H250V1000ZM750 1000V750H1000V1000Z\""));
  EXPECT_THAT(html, HasSubstr("class=\"s-wire\" d=\"M0 750V500H250V750ZM250 1000V0H500V1000Z\""));
}

TEST(ReportChart, columns_stand_on_the_axis_and_are_never_invisible) {
  ChartIds ids;
  Plot plot = sample_plot();
  EXPECT_THAT(column_plot(ids, plot), HasSubstr("x=\"250\" y=\"0\" width=\"250\" height=\"1000\""));
  plot.columns = {{0, 1, 1'000'000}, {50, 51, 1}};
  EXPECT_THAT(column_plot(ids, plot), HasSubstr("x=\"500\" y=\"992\" width=\"10\" height=\"8\""));
}

TEST(ReportChart, the_axis_reaches_a_mark_above_all_columns) {
  ChartIds ids;
  Plot plot = sample_plot();
  plot.y_marks = {{8, "8 slots"}};
  EXPECT_THAT(column_plot(ids, plot), HasSubstr("<path class=\"limit\" d=\"M0 0H1000\"/>"));
}

TEST(ReportChart, a_logarithmic_axis_places_powers_evenly) {
  const Axis axis = log_time_axis(10, 100'000, "");
  EXPECT_DOUBLE_EQ(axis.place(10), 0);
  EXPECT_NEAR(axis.place(1000), 0.5, 1e-12);
  EXPECT_DOUBLE_EQ(axis.place(100'000), 1);
  EXPECT_DOUBLE_EQ(axis.place(0), 0);
}

TEST(ReportStyle, has_a_colour_for_each_path) {
  const std::string style(kStyleSheet);
  for (const Path path : kPaths) {
    const std::string id(series_of(path).id);
    EXPECT_THAT(style, HasSubstr("--" + id + ":#"));
    EXPECT_THAT(style, HasSubstr(".s-" + id + "{fill:var(--" + id + ")}"));
    EXPECT_THAT(style, HasSubstr(".o-" + id + "{stroke:var(--" + id + ")"));
  }
}

TEST(ReportTable, numbers_carry_themselves_exactly) {
  Table table("Sums", {"op", "calls"});
  table.row("<b>");
  table.number("a.b", 1'234'567);
  EXPECT_THAT(table.html(),
              HasSubstr("<td data-key=\"a.b\" data-value=\"1234567\">1\u202f234\u202f567</td>"));
  EXPECT_THAT(table.html(), HasSubstr("<th scope=\"row\"><bdi>&lt;b&gt;</bdi></th>"));
}

}  // namespace
}  // namespace airlock::report
