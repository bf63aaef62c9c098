#include "tools/airlock_trace/show.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "base/log.h"
#include "runtime/json/json.h"
#include "tools/airlock_trace/text.h"

namespace airlock::trace {
namespace {

using Ordered = nlohmann::ordered_json;

std::string layer_text(const std::optional<std::uint16_t>& layer) {
  return layer ? std::to_string(*layer) : "-";
}

std::string header_markdown(const TraceSummary& summary) {
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
      "- model {}: {} layers, hidden {}, intermediate {}, {} heads, {} kv heads of "
      "{}, vocabulary {}\n",
      printable(header.model), dims.layers, dims.hidden, dims.intermediate, dims.heads,
      dims.kv_heads, dims.head_dim, dims.vocab);
  text += fmt::format("- {} tokens, {} prefill{}, attention {}, backend {}, wire {}, dtype {}\n",
                      header.tokens, header.runs, header.runs == 1 ? "" : "s", header.attention,
                      header.backend, name_of(header.wire), name_of(header.dtype));
  text += header.path_limit_bytes == 0 ? "- no ring\n"
                                       : fmt::format("- ring of {} slots, {} bytes each\n",
                                                     header.ring_slots, header.path_limit_bytes);
  if (header.digests) {
    text += fmt::format(
        "- with digests{}\n",
        header.payload.empty() ? "" : fmt::format(", payload in {}", printable(header.payload)));
  }
  std::string assumed;
  for (const std::string& name : header.assumed) {
    assumed += fmt::format("{}{}", assumed.empty() ? "" : ", ", printable(name));
  }
  if (!assumed.empty()) text += fmt::format("- assumed: {}\n", assumed);
  if (header.dropped != 0) {
    text += fmt::format(
        "- **{} ops are missing**: the disk could not keep up; their time counts as between ops\n",
        header.dropped);
  }
  if (!summary.cut.empty()) text += fmt::format("- **{}**\n", printable(summary.cut));
  return text + '\n';
}

std::vector<std::string> op_row(std::string_view name, const OpTotals& totals) {
  return {std::string(name),
          std::to_string(totals.calls),
          size_text(totals.input_bytes),
          size_text(totals.output_bytes),
          milliseconds(totals.total_ns),
          milliseconds(totals.tee_ns),
          milliseconds(totals.wire_ns),
          milliseconds(totals.queue_ns),
          milliseconds(totals.server_ns),
          milliseconds(totals.p50_ns),
          milliseconds(totals.p99_ns)};
}

std::string shares_markdown(const TraceSummary& summary) {
  const std::uint64_t whole = summary.whole_ns();
  const OpTotals& all = summary.all;
  std::string text =
      summary.has_wall()
          ? fmt::format("Wall {} ms, of which an op was under way {} ms.\n\n",
                        milliseconds(*summary.header.wall_ns), milliseconds(summary.under_way_ns()))
      : summary.between_ns()
          ? fmt::format(
                "Wall unknown; {} ms from the first op to the last, of which one was under way {} "
                "ms.\n\n",
                milliseconds(whole), milliseconds(summary.under_way_ns()))
          : fmt::format(
                "Wall unknown; an op was under way {} ms, and shares are of "
                "that.\n\n",
                milliseconds(summary.under_way_ns()));
  std::vector<std::vector<std::string>> rows;
  const auto row = [&](std::string_view name, std::uint64_t ns) {
    rows.push_back({std::string(name), milliseconds(ns), percent(ns, whole)});
  };
  if (const auto between = summary.between_ns()) {
    row("TEE between ops", *between);
  } else {
    rows.push_back({"TEE between ops", "-", "-"});
  }
  row("TEE in ops", all.tee_ns);
  row("wire", all.wire_ns);
  row("queue", all.queue_ns);
  row("server", all.server_ns);
  return text + markdown_table({"side", "ms", "share"}, rows) + '\n';
}

Ordered totals_json(const OpTotals& totals) {
  return {{"calls", totals.calls},
          {"input_bytes", totals.input_bytes},
          {"output_bytes", totals.output_bytes},
          {"total_ns", totals.total_ns},
          {"tee_ns", totals.tee_ns},
          {"wire_ns", totals.wire_ns},
          {"queue_ns", totals.queue_ns},
          {"server_ns", totals.server_ns},
          {"p50_ns", totals.p50_ns},
          {"p99_ns", totals.p99_ns},
          {"max_ns", totals.max_ns}};
}

Ordered header_json(const TraceHeader& header) {
  const ModelDims& dims = header.dims;
  return {{"source", name_of(header.source)},
          {"build", header.build},
          {"host", header.host.name},
          {"cpu", header.host.cpu},
          {"device", header.host.device},
          {"started_at", header.started_at},
          {"model", header.model},
          {"config",
           {{"hidden_size", dims.hidden},
            {"intermediate_size", dims.intermediate},
            {"num_hidden_layers", dims.layers},
            {"num_attention_heads", dims.heads},
            {"num_key_value_heads", dims.kv_heads},
            {"head_dim", dims.head_dim},
            {"vocab_size", dims.vocab}}},
          {"tokens", header.tokens},
          {"runs", header.runs},
          {"wire", name_of(header.wire)},
          {"dtype", name_of(header.dtype)},
          {"attention", header.attention},
          {"backend", header.backend},
          {"path_limit_bytes", header.path_limit_bytes},
          {"ring_slots", header.ring_slots},
          {"digests", header.digests},
          {"assumed", header.assumed},
          {"dropped", header.dropped}};
}

Ordered shares_json(const TraceSummary& summary) {
  const auto share = [&](std::uint64_t ns) {
    const std::uint64_t whole = summary.whole_ns();
    return whole == 0 ? Ordered() : Ordered(static_cast<double>(ns) / static_cast<double>(whole));
  };
  const auto between = summary.between_ns();
  return {{"of", summary.has_wall() ? "wall"
                 : between          ? "span"
                                    : "under_way"},
          {"tee_between", between ? share(*between) : Ordered()},
          {"tee_in_ops", share(summary.all.tee_ns)},
          {"wire", share(summary.all.wire_ns)},
          {"queue", share(summary.all.queue_ns)},
          {"server", share(summary.all.server_ns)}};
}

std::string show_csv(const std::vector<TraceSummary>& summaries) {
  std::string text = csv_row({"file", "op", "calls", "input_bytes", "output_bytes", "total_ns",
                              "tee_ns", "wire_ns", "queue_ns", "server_ns", "p50_ns", "p99_ns",
                              "max_ns", "wall_ns", "under_way_ns"});
  for (const TraceSummary& summary : summaries) {
    const auto add = [&](std::string_view name, const OpTotals& t, bool is_all) {
      std::vector<std::string> cells = {summary.file, std::string(name)};
      for (const std::uint64_t value :
           {t.calls, t.input_bytes, t.output_bytes, t.total_ns, t.tee_ns, t.wire_ns, t.queue_ns,
            t.server_ns, t.p50_ns, t.p99_ns, t.max_ns}) {
        cells.push_back(std::to_string(value));
      }
      cells.push_back(is_all && summary.header.wall_ns ? std::to_string(*summary.header.wall_ns)
                                                       : "");
      cells.push_back(is_all ? std::to_string(summary.under_way_ns()) : "");
      text += csv_row(cells);
    };
    for (std::size_t i = 0; i < kTracedOps.size(); ++i) {
      if (summary.ops[i].calls != 0) add(name_of(kTracedOps[i]), summary.ops[i], false);
    }
    add("all", summary.all, true);
  }
  return text;
}

}  // namespace

std::string show_markdown(const TraceSummary& summary) {
  std::string text = header_markdown(summary);
  std::vector<std::vector<std::string>> rows;
  for (std::size_t i = 0; i < kTracedOps.size(); ++i) {
    if (summary.ops[i].calls != 0) rows.push_back(op_row(name_of(kTracedOps[i]), summary.ops[i]));
  }
  rows.push_back(op_row("all", summary.all));
  text += markdown_table({"op", "calls", "in", "out", "total ms", "tee ms", "wire ms", "queue ms",
                          "server ms", "p50 ms", "p99 ms"},
                         rows);
  rows.clear();
  for (std::size_t i = 0; i < kPathRows.size(); ++i) {
    const PathTotals& path = summary.paths[i];
    if (path.tensors == 0) continue;
    rows.push_back({std::string(kPathRows[i]), std::to_string(path.tensors),
                    size_text(path.input_bytes), size_text(path.output_bytes),
                    size_text(path.bytes())});
  }
  text += '\n' + markdown_table({"path", "tensors", "to the server", "back", "both"}, rows) + '\n';
  if (summary.header.source == TraceSource::kSynthesised) {
    text += "A synthesised trace has no times.\n\n";
  } else {
    text += shares_markdown(summary);
  }
  rows.clear();
  for (const BigOp& big : summary.biggest) {
    rows.push_back({std::to_string(big.seq), std::string(name_of(big.op)), big.shapes,
                    layer_text(big.layer), std::string(path_text(big.path)), size_text(big.bytes),
                    milliseconds(big.total_ns)});
  }
  return text + "Biggest ops:\n\n" +
         markdown_table({"seq", "op", "shapes", "layer", "path", "bytes", "total ms"}, rows, 3);
}

std::string summary_json(const TraceSummary& summary) {
  Ordered json;
  json["file"] = summary.file;
  json["header"] = header_json(summary.header);
  json["records"] = summary.all.calls;
  json["wall_ns"] = summary.header.wall_ns ? Ordered(*summary.header.wall_ns) : Ordered();
  json["under_way_ns"] = summary.under_way_ns();
  const auto between = summary.between_ns();
  json["tee_between_ns"] = between ? Ordered(*between) : Ordered();
  json["shares"] = shares_json(summary);
  json["ops"] = Ordered::object();
  for (std::size_t i = 0; i < kTracedOps.size(); ++i) {
    if (summary.ops[i].calls != 0)
      json["ops"][name_of(kTracedOps[i])] = totals_json(summary.ops[i]);
  }
  json["all"] = totals_json(summary.all);
  json["paths"] = Ordered::object();
  for (std::size_t i = 0; i < kPathRows.size(); ++i) {
    const PathTotals& path = summary.paths[i];
    json["paths"][kPathRows[i]] = {{"tensors", path.tensors},
                                   {"input_bytes", path.input_bytes},
                                   {"output_bytes", path.output_bytes}};
  }
  json["biggest"] = Ordered::array();
  for (const BigOp& big : summary.biggest) {
    json["biggest"].push_back({{"seq", big.seq},
                               {"run", big.run},
                               {"op", name_of(big.op)},
                               {"layer", big.layer ? Ordered(*big.layer) : Ordered()},
                               {"shapes", big.shapes},
                               {"bytes", big.bytes},
                               {"path", big.path ? Ordered(path_text(big.path)) : Ordered()},
                               {"total_ns", big.total_ns}});
  }
  json["cut"] = summary.cut.empty() ? Ordered() : Ordered(summary.cut);
  return json.dump(-1, ' ', false, Ordered::error_handler_t::replace);
}

Result<std::string> show(const std::vector<std::string>& files, Form form) {
  std::vector<TraceSummary> summaries;
  for (const std::string& file : files) {
    ASSIGN_OR_RETURN(TraceSummary summary, summarise(file));
    if (!summary.cut.empty()) log_warning(summary.cut);
    summaries.push_back(std::move(summary));
  }
  if (form == Form::kCsv) return show_csv(summaries);
  std::string text;
  for (const TraceSummary& summary : summaries) {
    if (!text.empty()) text += form == Form::kJson ? "," : "\n";
    text += form == Form::kJson ? summary_json(summary) : show_markdown(summary);
  }
  return form == Form::kJson ? "{\"traces\":[" + text + "]}\n" : text;
}

}  // namespace airlock::trace
