#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "tools/airlock_report/format.h"
#include "tools/airlock_report/sections.h"
#include "tools/airlock_report/table.h"

namespace airlock::report {
namespace {

using PathHistograms = PerValue<Path, HistogramSnapshot>;

/// Files whose histograms may be merged: those of one side, or the traces.
struct Group {
  std::string key;    // "merged.tee_runner."
  std::string title;  // plain text
  std::vector<std::size_t> members;
  PathHistograms merged;
};

PathHistograms histograms_of(const Input& input) {
  PathHistograms histograms;
  if (input.trace() != nullptr && !input.trace()->has_times()) return histograms;
  for (const Path path : kPaths) histograms[path] = input.paths()[path].latency_ns;
  return histograms;
}

std::vector<Group> groups_of(const std::vector<Input>& inputs) {
  std::vector<Group> groups = {{"merged.tee_runner.", "Runners' statistics", {}, {}},
                               {"merged.gpu_server.", "Servers' statistics", {}, {}},
                               {"merged.trace.", "Traces", {}, {}}};
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const Input& input = inputs[i];
    Group& group = groups[input.trace() != nullptr              ? 2
                          : input.stats()->side == "gpu_server" ? 1
                                                                : 0];
    const PathHistograms histograms = histograms_of(input);
    if (histograms == PathHistograms{}) continue;
    group.members.push_back(i);
    merge(group.merged, histograms);
  }
  std::erase_if(groups, [](const Group& group) { return group.members.empty(); });
  return groups;
}

void add_rows(Table& table, const std::string& key, const std::string& name,
              const PathHistograms& histograms) {
  for (const Path path : kPaths) {
    const HistogramSnapshot& histogram = histograms[path];
    if (histogram.count() == 0) continue;
    const std::string prefix = fmt::format("{}paths.{}.latency_ns.", key, name_of(path));
    table.row(name);
    table.text(name_of(path));
    table.number(prefix + "count", histogram.count());
    for (const auto& [name_of_share, share] : kPercentiles)
      table.number(fmt::format("{}{}", prefix, name_of_share), histogram.percentile(share));
    table.number(prefix + "max", histogram.max);
  }
}

/// Each bucket with the one below it, which gives its lower edge.
std::vector<Column> columns_of(const HistogramSnapshot& histogram) {
  HistogramSnapshot all;
  all.counts.fill(1);
  const auto edges = all.buckets();
  std::vector<Column> columns;
  for (const auto& [upper, count] : histogram.buckets()) {
    const auto found = std::ranges::lower_bound(edges, std::pair(upper, std::uint64_t{0}));
    const std::uint64_t lower = found == edges.begin() ? 0 : std::prev(found)->first;
    columns.push_back({lower + 1, upper == UINT64_MAX ? upper : upper + 1, count});
  }
  return columns;
}

std::string bucket_table(const std::string& key, const Group& group) {
  Table table("Ops in each bucket", {"path", "up to, ns", "up to", "ops"});
  for (const Path path : kPaths) {
    for (const auto& [upper, count] : group.merged[path].buckets()) {
      table.row(name_of(path));
      table.derived(grouped(upper));
      table.derived(human_time(upper));
      table.number(fmt::format("{}paths.{}.latency_ns.buckets.{}", key, name_of(path), upper),
                   count);
    }
  }
  return table.folded(fmt::format("The {} buckets of the charts", table.rows()));
}

std::string group_part(const Group& group, const std::vector<Input>& inputs, ChartIds& ids) {
  PerValue<Path, std::vector<Column>> columns;
  std::uint64_t low = UINT64_MAX;
  std::uint64_t high = 1;
  for (const Path path : kPaths) {
    columns[path] = columns_of(group.merged[path]);
    if (columns[path].empty()) continue;
    low = std::min(low, columns[path].front().low);
    high = std::max(high, columns[path].back().high);
  }
  std::string body = fmt::format("<h3>{}</h3>\n", escape_html(group.title));
  for (const Path path : kPaths) {
    if (columns[path].empty()) continue;
    const HistogramSnapshot& histogram = group.merged[path];
    Plot plot;
    plot.text.title = fmt::format("Latency of ops on the {} path", name_of(path));
    plot.series = series_of(path);
    plot.x = log_time_axis(low, high, "latency of an op, logarithmic");
    plot.y_label = "ops";
    plot.columns = columns[path];
    for (const auto& [name, share] : kPercentiles) {
      const std::uint64_t value = histogram.percentile(share);
      plot.x_marks.push_back({value, fmt::format("{} {}", name, human_time(value))});
    }
    plot.text.description = fmt::format(
        "Histogram of {} ops: median {}, 90 % within {}, 99 % within {}, the longest {}.",
        histogram.count(), plot.x_marks[0].label.substr(4), plot.x_marks[1].label.substr(4),
        plot.x_marks[2].label.substr(4), human_time(histogram.max));
    body += column_plot(ids, plot);
  }
  Table table("Latency per path, ns", {"file", "path", "ops", "p50", "p90", "p99", "max"});
  for (const std::size_t i : group.members)
    add_rows(table, key_of(i), fmt::format("{}. {}", i + 1, inputs[i].file),
             histograms_of(inputs[i]));
  if (group.members.size() > 1)
    add_rows(table, group.key, fmt::format("all {} merged", group.members.size()), group.merged);
  const std::string key = group.members.size() > 1 ? group.key : key_of(group.members[0]);
  return body + table.html() + bucket_table(key, group);
}

}  // namespace

std::string latency_section(const std::vector<Input>& inputs, ChartIds& ids) {
  const std::vector<Group> groups = groups_of(inputs);
  if (groups.empty()) return {};
  std::string body =
      "<p>An op's whole time less what the server reports for itself. An op counts on ZeroMQ if "
      "any of its tensors went there. Percentiles are the upper edge of a bucket of the merged "
      "histogram, at most 12.5 % above the value; they are never averaged.</p>\n";
  for (const Group& group : groups) body += group_part(group, inputs, ids);
  return body;
}

}  // namespace airlock::report
