#include <fmt/format.h>

#include <algorithm>

#include "base/saturating.h"
#include "tools/airlock_report/format.h"
#include "tools/airlock_report/sections.h"
#include "tools/airlock_report/table.h"

namespace airlock::report {
namespace {

/// What the passes of one kind are called.
struct Words {
  std::string_view one;
  std::string_view many;
};
Words words_of(PassKind kind) {
  if (kind == PassKind::kPrefill) return {"pass over the prompt", "passes over the prompt"};
  return {"step of an answer", "steps of an answer"};
}

/// Whether each pass says what lay between its ops.
bool knows_between(const PassSums& sums) { return sums.between_known == sums.count; }

std::vector<Segment> segments_of(const PassSums& sums) {
  std::vector<Segment> segments = {{kTee, sums.tee_ns},
                                   {kWire, sums.wire_ns},
                                   {kQueue, sums.queue_ns},
                                   {kServer, sums.server_ns}};
  if (knows_between(sums)) segments.push_back({kBetween, sums.between_ns});
  return segments;
}

/// A mean pass of each interval, in the parts of its time.
std::string passes_plot(PassKind kind, const PassTotals& totals, const PassBins& bins,
                        ChartIds& ids) {
  const Words words = words_of(kind);
  const std::uint64_t width = bins.width();
  Plot plot;
  plot.unit = Unit::kTime;
  plot.x.high = static_cast<double>(totals.count);
  plot.x.label = fmt::format("{}, in order", words.many);
  plot.x.ticks = linear_ticks(totals.count, 5, Unit::kCount);
  std::erase_if(plot.x.ticks, [&](const Tick& tick) { return tick.value > totals.count; });
  plot.y_label =
      width == 1 ? fmt::format("time of each {}", words.one)
                 : fmt::format("time of a {}, the mean of {} in a row", words.one, grouped(width));
  std::vector<Layer> layers;
  for (const Segment& segment : segments_of(totals)) layers.push_back({segment.series, {}});
  for (std::size_t i = 0; i < bins.bins().size(); ++i) {
    const PassSums& sums = bins.bins()[i];
    const std::vector<Segment> parts = segments_of(sums);
    std::uint64_t whole = 0;
    for (std::size_t part = 0; part < layers.size(); ++part) {
      const std::uint64_t mean = parts[part].value / std::max<std::uint64_t>(sums.count, 1);
      layers[part].values.push_back(mean);
      whole = add_saturating(whole, mean);
    }
    plot.columns.push_back({i * width, std::min((i + 1) * width, totals.count), whole});
  }
  plot.text.title = fmt::format("Time of {}", words.many);
  plot.text.description =
      fmt::format("{} {}: median {}, 90 % within {}, the longest {}.", totals.count, words.many,
                  human_time(totals.each_ns.percentile(0.5)),
                  human_time(totals.each_ns.percentile(0.9)), human_time(totals.each_ns.max));
  return layered_plot(ids, plot, layers) + legend(segments_of(totals));
}

std::string counts_table(const std::string& key, const PassTable& passes) {
  Table table("Passes", {"kind", "passes", "rows", "ops", "inputs, bytes", "outputs, bytes",
                         "without logits"});
  for (const PassKind kind : kValuesOf<PassKind>) {
    const PassTotals& totals = passes[kind];
    const std::string prefix = fmt::format("{}passes.{}.", key, name_of(kind));
    if (totals.count == 0) continue;
    table.row(words_of(kind).many);
    table.number(prefix + "count", totals.count);
    table.number(prefix + "rows", totals.rows);
    table.number(prefix + "ops", totals.ops);
    table.number(prefix + "input_bytes", totals.input_bytes);
    table.number(prefix + "output_bytes", totals.output_bytes);
    table.number(prefix + "without_logits", totals.without_logits);
  }
  return table.html();
}

/// Cells: the whole time, and its parts.
void add_times(Table& table, const std::string& prefix, const PassSums& sums) {
  table.number(prefix + "wall_ns", sums.wall_ns);
  if (knows_between(sums))
    table.number(prefix + "between_ns", sums.between_ns);
  else
    table.derived("-");
  table.number(prefix + "tee_ns", sums.tee_ns);
  table.number(prefix + "wire_ns", sums.wire_ns);
  table.number(prefix + "queue_ns", sums.queue_ns);
  table.number(prefix + "server_ns", sums.server_ns);
}

std::string times_table(const std::string& key, const PassTable& passes) {
  Table table("Time of passes, ns", {"kind", "total", "between ops", "TEE", "wire", "queue",
                                     "server", "p50 of one", "p90 of one", "max of one"});
  for (const PassKind kind : kValuesOf<PassKind>) {
    const PassTotals& totals = passes[kind];
    const std::string prefix = fmt::format("{}passes.{}.", key, name_of(kind));
    if (totals.count == 0) continue;
    table.row(words_of(kind).many);
    add_times(table, prefix, totals);
    table.number(prefix + "p50_ns", totals.each_ns.percentile(0.5));
    table.number(prefix + "p90_ns", totals.each_ns.percentile(0.9));
    table.number(prefix + "max_ns", totals.each_ns.max);
  }
  return table.html();
}

std::string intervals_table(const std::string& key, PassKind kind, const ReportedTrace& trace) {
  const PassBins& bins = trace.pass_bins[kind];
  std::vector<std::string> columns = {"from", "passes", "rows", "ops"};
  if (trace.has_times())
    columns.insert(columns.end(), {"time, ns", "between ops", "TEE", "wire", "queue", "server"});
  const std::string many(words_of(kind).many);
  Table table(fmt::format("All {}", many), columns);
  for (std::size_t i = 0; i < bins.bins().size(); ++i) {
    const PassSums& sums = bins.bins()[i];
    const std::uint64_t from = i * bins.width();
    const std::string prefix = fmt::format("{}passes.{}.bins.{}.", key, name_of(kind), from);
    table.row(grouped(from));
    table.number(prefix + "count", sums.count);
    table.number(prefix + "rows", sums.rows);
    table.number(prefix + "ops", sums.ops);
    if (trace.has_times()) add_times(table, prefix, sums);
  }
  return table.folded(bins.width() == 1 ? fmt::format("The {} {}", table.rows(), many)
                                        : fmt::format("The {} intervals of {}, {} each",
                                                      table.rows(), many, grouped(bins.width())));
}

}  // namespace

std::string passes_section(const std::vector<Input>& inputs, ChartIds& ids) {
  const std::string body =
      for_each_input(inputs, [&](const Input& input, const std::string& key) -> std::string {
        const ReportedTrace* trace = input.trace();
        if (trace == nullptr || sum_of(trace->passes).count == 0) return {};
        std::string part;
        for (const PassKind kind : kValuesOf<PassKind>) {
          if (trace->has_times() && trace->passes[kind].count != 0)
            part += passes_plot(kind, trace->passes[kind], trace->pass_bins[kind], ids);
        }
        part += counts_table(key, trace->passes);
        if (trace->has_times()) part += times_table(key, trace->passes);
        for (const PassKind kind : kValuesOf<PassKind>) {
          if (trace->passes[kind].count != 0) part += intervals_table(key, kind, *trace);
        }
        return part;
      });
  if (body.empty()) return {};
  return "<p>From the traces. A pass begins with its embedding and ends with the reply of its last "
         "op: what lies between two passes, such as the choice of a token, is in neither. A run's "
         "passes are over its prompt until they had as many rows as the trace has tokens; each "
         "one behind them is a step of an answer. Where ops overlap, their parts add up to more "
         "than the time. Percentiles are the upper edge of a bucket, at most 12.5 % above the "
         "value; a step without logits, which was cut off, is not in them.</p>\n" +
         body;
}

}  // namespace airlock::report
