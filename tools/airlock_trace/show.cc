#include "tools/airlock_trace/show.h"

#include <fmt/format.h>

#include <algorithm>
#include <span>
#include <utility>

#include "base/log.h"
#include "runtime/json/reader.h"
#include "runtime/text/figures.h"
#include "runtime/text/table.h"
#include "runtime/trace/trace_line.h"

namespace airlock::trace {
namespace {

/// As many of the longest ops are shown.
constexpr std::size_t kShownOps = 5;

/// The shares of the time. They are of the wall, or where that is unknown of the time from the
/// first op to the last, or of the time in which an op was under way.
struct Shares {
  explicit Shares(const TraceFileSummary& summary) {
    const std::uint64_t busy_ns = summary.busy.busy_ns();
    const std::string busy = ms_text(busy_ns);
    const auto between = summary.between_ns();
    // 0 is no wall either: synthesis knows no times.
    if (const std::uint64_t wall_ns = summary.header.wall_ns.value_or(0); wall_ns != 0) {
      of = "wall";
      whole_ns = std::max(wall_ns, busy_ns);
      text = fmt::format("Wall {} ms, of which an op was under way {} ms.", ms_text(wall_ns), busy);
    } else if (between) {
      of = "span";
      whole_ns = add_saturating(busy_ns, *between);
      text = fmt::format(
          "Wall unknown; {} ms from the first op to the last, of which one was under way {} ms.",
          ms_text(whole_ns), busy);
    } else {
      of = "under_way";
      whole_ns = busy_ns;
      text = fmt::format("Wall unknown; an op was under way {} ms, and shares are of that.", busy);
    }
    const OpTimes& times = summary.all.times;
    parts = {{"tee_between", "TEE between ops", between},
             {"tee_in_ops", "TEE in ops", times.tee_ns},
             {"wire", "wire", times.wire_ns},
             {"queue", "queue", times.queue_ns},
             {"server", "server", times.server_ns}};
  }
  struct Part {
    std::string_view key;
    std::string_view title;
    std::optional<std::uint64_t> ns;
  };
  std::string_view of;
  std::uint64_t whole_ns = 0;
  // What they are of, for people.
  std::string text;
  std::vector<Part> parts;
};

std::string header_markdown(const TraceFileSummary& summary) {
  const TraceHeader& header = summary.header;
  const ModelDims& dims = header.dims;
  std::string text = fmt::format("## {}\n\n", printable(summary.file));
  text += fmt::format(
      "- {} by {}{}\n", name_of(header.source), printable(header.build),
      header.started_at.empty() ? "" : fmt::format(", {}", printable(header.started_at)));
  if (!header.host.name.empty() || !header.host.device.empty()) {
    text +=
        fmt::format("- host {}, {}, {} cores; backend on {}\n", printable(header.host.name),
                    printable(header.host.cpu), header.host.cores, printable(header.host.device));
  }
  text += fmt::format(
      "- model {}: {} layers, hidden {}, intermediate {}, {} heads, {} kv heads of {}, vocabulary "
      "{}\n",
      printable(header.model), dims.layers, dims.hidden, dims.intermediate, dims.heads,
      dims.kv_heads, dims.head_dim, dims.vocab);
  text += fmt::format("- {} tokens, {}, attention {}, backend {}, wire {}, dtype {}\n",
                      header.tokens, prefills_text(header.runs), header.attention, header.backend,
                      name_of(header.wire), name_of(header.dtype));
  text += header.path_limit_bytes == 0 ? "- no ring\n"
                                       : fmt::format("- ring of {} slots, {} bytes each\n",
                                                     header.ring_slots, header.path_limit_bytes);
  if (header.digests) {
    text += fmt::format(
        "- with digests{}\n",
        header.payload.empty() ? "" : fmt::format(", payload in {}", printable(header.payload)));
  }
  if (!header.assumed.empty()) {
    std::vector<std::string> assumed;
    for (const std::string& field : header.assumed) assumed.push_back(printable(field));
    text += fmt::format("- assumed: {}\n", fmt::join(assumed, ", "));
  }
  if (header.dropped != 0) {
    text += fmt::format(
        "- **{} ops are missing**: the disk could not keep up; their time counts as between ops\n",
        header.dropped);
  }
  if (!summary.cut.empty()) text += fmt::format("- **{}**\n", printable(summary.cut));
  return text + '\n';
}

/// A row an op that was called, and one of all of them.
Table ops_table(const std::vector<TraceFileSummary>& summaries) {
  Table table({{"", "file"},
               left("op"),
               "calls",
               {"in", "input_bytes"},
               {"out", "output_bytes"},
               {"total ms", "total_ns"},
               {"tee ms", "tee_ns"},
               {"wire ms", "wire_ns"},
               {"queue ms", "queue_ns"},
               {"server ms", "server_ns"},
               {"p50 ms", "p50_ns"},
               {"p99 ms", "p99_ns"},
               {"", "max_ns"},
               {"", "wall_ns"},
               {"", "under_way_ns"}});
  for (const TraceFileSummary& summary : summaries) {
    const auto add = [&](std::string_view name, const OpSums& sums, const Cell& wall,
                         const Cell& under_way) {
      Cells row = {summary.file, name, sums.calls, Cell::size(sums.input_bytes),
                   Cell::size(sums.output_bytes)};
      visit_times([&](std::string_view, std::uint64_t ns) { row.push_back(Cell::ms(ns)); },
                  sums.times);
      row.insert(row.end(),
                 {Cell::ms(sums.call_ns.percentile(0.5)), Cell::ms(sums.call_ns.percentile(0.99)),
                  sums.call_ns.max, wall, under_way});
      table.add(std::move(row));
    };
    for (const Op op : kComputeOps) {
      if (summary.ops[op].calls != 0) add(name_of(op), summary.ops[op], {}, {});
    }
    add("all", summary.all, summary.header.wall_ns, summary.busy.busy_ns());
  }
  return table;
}

/// A row for each kind of pass that there was.
Table passes_table(const TraceFileSummary& summary) {
  Table table({left("pass"),
               "passes",
               "rows",
               "ops",
               {"total ms", "wall_ns"},
               {"TEE between ms", "between_ns"},
               {"tee ms", "tee_ns"},
               {"wire ms", "wire_ns"},
               {"queue ms", "queue_ns"},
               {"server ms", "server_ns"},
               {"p50 ms", "p50_ns"},
               {"p90 ms", "p90_ns"}});
  for (const PassKind kind : kValuesOf<PassKind>) {
    const PassTotals& sums = summary.passes[kind];
    if (sums.count == 0) continue;
    const bool is_known = sums.between_known == sums.count;
    table.add({name_of(kind), sums.count, sums.rows, sums.ops, Cell::ms(sums.wall_ns),
               is_known ? Cell::ms(sums.between_ns) : Cell(), Cell::ms(sums.tee_ns),
               Cell::ms(sums.wire_ns), Cell::ms(sums.queue_ns), Cell::ms(sums.server_ns),
               Cell::ms(sums.each_ns.percentile(0.5)), Cell::ms(sums.each_ns.percentile(0.9))});
  }
  return table;
}

Table biggest_table(const TraceFileSummary& summary) {
  Table table({left("seq"),
               {"", "run"},
               left("op"),
               left("shapes"),
               "layer",
               "path",
               "bytes",
               {"total ms", "total_ns"}});
  for (const TraceRecord& record :
       std::span(summary.by_time).first(std::min(kShownOps, summary.by_time.size()))) {
    const auto path = record.slowest_path();
    table.add({record.seq, record.run, name_of(record.op), shapes_text(record), record.layer,
               path ? Cell(name_of(*path)) : Cell(), Cell::size(record.bytes()),
               Cell::ms(record.times.total_ns)});
  }
  return table;
}

std::string shares_markdown(const TraceFileSummary& summary) {
  const Shares shares(summary);
  Table table({left("side"), "ms", "share"});
  for (const auto& [key, title, ns] : shares.parts) {
    table.add(
        {title, ns ? Cell::ms(*ns) : Cell(),
         ns ? percent_text(static_cast<double>(*ns), static_cast<double>(shares.whole_ns)) : "-"});
  }
  return shares.text + "\n\n" + table.markdown() + '\n';
}

std::string show_markdown(const TraceFileSummary& summary) {
  std::string text = header_markdown(summary) + ops_table({summary}).markdown();
  Table paths({left("path"), "tensors", "to the server", "back", "both"});
  visit_paths(
      [&](std::string_view name, const PathSnapshot& sums) {
        if (tensors_of(sums) == 0) return;
        paths.add({name, tensors_of(sums), Cell::size(sums.sent.bytes),
                   Cell::size(sums.received.bytes),
                   Cell::size(add_saturating(sums.sent.bytes, sums.received.bytes))});
      },
      summary);
  text += '\n' + paths.markdown() + '\n';
  if (summary.passes[PassKind::kStep].count != 0) {
    text +=
        "Passes over prompts, and steps of answers:\n\n" + passes_table(summary).markdown() + '\n';
  }
  text += summary.header.source == TraceSource::kSynthesised
              ? "A synthesised trace has no times.\n\n"
              : shares_markdown(summary);
  return text + "Biggest ops:\n\n" + biggest_table(summary).markdown();
}

JsonObject sums_json(const OpSums& sums) {
  JsonObject json = {{"calls", sums.calls},
                     {"input_bytes", sums.input_bytes},
                     {"output_bytes", sums.output_bytes}};
  visit_times([&](std::string_view key, std::uint64_t ns) { json.add(key, ns); }, sums.times);
  json.add("p50_ns", sums.call_ns.percentile(0.5)).add("p99_ns", sums.call_ns.percentile(0.99));
  return json.add("max_ns", sums.call_ns.max);
}

JsonObject header_json(const TraceHeader& header) {
  return {{"source", header.source},
          {"build", header.build},
          {"host", header.host.name},
          {"cpu", header.host.cpu},
          {"device", header.host.device},
          {"started_at", header.started_at},
          {"model", header.model},
          {"config", dims_object(header.dims)},
          {"tokens", header.tokens},
          {"runs", header.runs},
          {"wire", header.wire},
          {"dtype", header.dtype},
          {"attention", header.attention},
          {"backend", header.backend},
          {"path_limit_bytes", header.path_limit_bytes},
          {"ring_slots", header.ring_slots},
          {"digests", header.digests},
          {"assumed", header.assumed},
          {"dropped", header.dropped}};
}

JsonObject shares_json(const Shares& shares) {
  JsonObject json = {{"of", shares.of}};
  for (const auto& [key, title, ns] : shares.parts) {
    std::optional<double> share;
    if (ns && shares.whole_ns != 0)
      share = static_cast<double>(*ns) / static_cast<double>(shares.whole_ns);
    json.add(key, share);
  }
  return json;
}

}  // namespace

std::string desc_text(const TensorDesc& desc) {
  const std::string extents = fmt::format("{}", fmt::join(desc.shape.extents(), "x"));
  return fmt::format("{}[{}]", name_of(desc.dtype), extents.empty() ? "-" : extents);
}

std::string shapes_text(const TraceRecord& record) {
  std::string text;
  for (const TraceTensor& tensor : record.inputs) (text += desc_text(tensor.desc)) += ' ';
  text += "->";
  for (const TraceTensor& tensor : record.outputs) (text += ' ') += desc_text(tensor.desc);
  return text;
}

std::string weight_text(const WeightId& weight) {
  return fmt::format("{}.{}", weight.layer, name_of(weight.kind));
}

std::string prefills_text(std::uint64_t runs) {
  return fmt::format("{} prefill{}", runs, runs == 1 ? "" : "s");
}

std::uint64_t tensors_of(const PathSnapshot& path) {
  return add_saturating(path.sent.tensors, path.received.tensors);
}

JsonObject summary_json(const TraceFileSummary& summary) {
  JsonObject ops;
  for (const Op op : kComputeOps) {
    if (summary.ops[op].calls != 0) ops.add(name_of(op), sums_json(summary.ops[op]));
  }
  JsonObject paths;
  visit_paths(
      [&](std::string_view name, const PathSnapshot& sums) {
        paths.add(name, JsonObject{{"tensors", tensors_of(sums)},
                                   {"input_bytes", sums.sent.bytes},
                                   {"output_bytes", sums.received.bytes}});
      },
      summary);
  return {{"file", summary.file},
          {"header", header_json(summary.header)},
          {"records", summary.all.calls},
          {"wall_ns", summary.header.wall_ns},
          {"under_way_ns", summary.busy.busy_ns()},
          {"tee_between_ns", summary.between_ns()},
          {"shares", shares_json(Shares(summary))},
          {"ops", ops},
          {"all", sums_json(summary.all)},
          {"paths", paths},
          {"passes", passes_table(summary).json()},
          {"biggest", biggest_table(summary).json()},
          {"cut", summary.cut.empty() ? std::nullopt : std::optional(summary.cut)}};
}

Result<std::string> show(const std::vector<std::string>& files, OutputForm form) {
  std::vector<TraceFileSummary> summaries;
  for (const std::string& file : files) {
    ASSIGN_OR_RETURN(TraceFileSummary summary, summarise_trace(file));
    if (!summary.cut.empty()) log_warning(summary.cut);
    summaries.push_back(std::move(summary));
  }
  if (form == OutputForm::kCsv) return ops_table(summaries).csv();
  if (form == OutputForm::kJson) {
    std::vector<JsonObject> traces;
    for (const TraceFileSummary& summary : summaries) traces.push_back(summary_json(summary));
    return JsonObject{{"traces", traces}}.line();
  }
  std::vector<std::string> texts;
  for (const TraceFileSummary& summary : summaries) texts.push_back(show_markdown(summary));
  return fmt::format("{}", fmt::join(texts, "\n"));
}

}  // namespace airlock::trace
