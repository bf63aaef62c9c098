#include <fmt/format.h>

#include <string>
#include <vector>

#include "tools/airlock_report/format.h"
#include "tools/airlock_report/histogram_chart.h"
#include "tools/airlock_report/sections.h"
#include "tools/airlock_report/table.h"

namespace airlock::report {
namespace {

/// A histogram of the statistics' text, and its words.
struct Wait {
  HistogramSnapshot TextSnapshot::*histogram;
  std::string_view key;
  std::string_view name;
  std::string_view x_label;
  std::string_view y_label;
};
constexpr Wait kWaits[] = {{&TextSnapshot::ttft_ns, "ttft_ns", "Time to the first token",
                            "from a prompt's arrival to its first token, logarithmic", "prompts"},
                           {&TextSnapshot::itl_ns, "itl_ns", "Time between tokens",
                            "from token to token, logarithmic", "tokens"}};

const TextSnapshot* text_of(const Input& input) {
  return input.stats() != nullptr && input.stats()->text ? &*input.stats()->text : nullptr;
}

std::string counts_table(const std::vector<Input>& inputs) {
  Table table("Words", {"file", "prompts' tokens", "of them cached", "generated tokens",
                        "answers begun", "answers finished", "keys and values at most, bytes"});
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const TextSnapshot* text = text_of(inputs[i]);
    if (text == nullptr) continue;
    table.row(fmt::format("{}. {}", i + 1, inputs[i].file));
    table.numbers(key_of(i) + "text.", *text);
  }
  return table.html();
}

std::string wait_part(const Wait& wait, const std::vector<Input>& inputs, ChartIds& ids) {
  std::vector<std::size_t> members;
  HistogramSnapshot merged;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const TextSnapshot* text = text_of(inputs[i]);
    if (text == nullptr || (text->*wait.histogram).count() == 0) continue;
    members.push_back(i);
    merged.merge(text->*wait.histogram);
  }
  if (members.empty()) return {};
  TimeRange range;
  range.take(merged);
  std::string body = histogram_plot(
      ids, {std::string(wait.name), std::string(wait.x_label), std::string(wait.y_label), kBetween},
      merged, range);
  Table table(fmt::format("{}, ns", wait.name),
              {"file", std::string(wait.y_label), "p50", "p90", "p99", "max"});
  for (const std::size_t i : members) {
    table.row(fmt::format("{}. {}", i + 1, inputs[i].file));
    add_percentiles(table, fmt::format("{}text.{}.", key_of(i), wait.key),
                    text_of(inputs[i])->*wait.histogram);
  }
  std::string key = key_of(members.front());
  if (members.size() > 1) {
    key = "merged.tee_runner.";
    table.row(fmt::format("all {} merged", members.size()));
    add_percentiles(table, fmt::format("{}text.{}.", key, wait.key), merged);
  }
  Table buckets("In each bucket", {"", "up to, ns", "up to", std::string(wait.y_label)});
  add_buckets(buckets, wait.name, fmt::format("{}text.{}.", key, wait.key), merged);
  return body + table.html() +
         buckets.folded(fmt::format("The {} buckets of the chart", buckets.rows()));
}

}  // namespace

std::string text_section(const std::vector<Input>& inputs, ChartIds& ids) {
  const std::string counts = counts_table(inputs);
  std::string body;
  bool any = false;
  for (const Input& input : inputs) any = any || text_of(input) != nullptr;
  if (!any) return {};
  for (const Wait& wait : kWaits) body += wait_part(wait, inputs, ids);
  return "<p>From the statistics of runners that write text. Percentiles are the upper edge of a "
         "bucket, at most 12.5 % above the value; of several files they come from the merged "
         "histogram.</p>\n" +
         body + counts;
}

}  // namespace airlock::report
