#include "tools/airlock_report/page.h"

#include <fmt/format.h>

#include "tools/airlock_report/format.h"
#include "tools/airlock_report/sections.h"
#include "tools/airlock_report/style.h"

namespace airlock::report {
namespace {

/// Forbids all but the inline style: even if a text slipped through, it could neither run nor load
/// anything.
constexpr std::string_view kPolicy =
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'";

/// <h3> with the input's number and name.
std::string input_heading(std::size_t index, const Input& input) {
  return fmt::format("<h3><span class=\"number\">{}</span>{} <span class=\"soft\">{}</span></h3>\n",
                     index + 1, html_text(input.file), escape_html(input.kind()));
}

std::string entry(std::string_view name, std::string_view value) {
  return fmt::format("<dt>{}</dt><dd>{}</dd>", escape_html(name),
                     value.empty() ? "<span class=\"soft\">not recorded</span>" : html_text(value));
}

std::string number_entry(std::string_view name, const std::string& key, std::uint64_t value,
                         std::string_view shown) {
  return fmt::format("<dt>{}</dt><dd><span data-key=\"{}\" data-value=\"{}\">{}</span></dd>",
                     escape_html(name), key, value, escape_html(shown));
}

std::string host_entries(const HostReport& host) {
  std::string cpu = host.cpu;
  if (host.cores != 0) cpu += fmt::format(", {} cores", host.cores);
  return entry("host", host.name) + entry("cpu", cpu) + entry("device", host.device);
}

std::string card(const std::string& entries, const std::vector<std::string>& notes,
                 const std::string& config) {
  std::string html = fmt::format("<dl>{}</dl>", entries);
  if (!notes.empty()) html += "<ul class=\"notes\">";
  for (const std::string& note : notes) html += fmt::format("<li>{}</li>", html_text(note));
  if (!notes.empty()) html += "</ul>";
  if (!config.empty())
    html += fmt::format("<details><summary>Configuration</summary><dl>{}</dl></details>", config);
  return html;
}

std::string stats_card(const std::string& key, const SideReport& report) {
  const std::string entries =
      entry("side", report.side) + host_entries(report.host) +
      entry("model", config_value(report, "model")) +
      entry("tokens", config_value(report, "tokens")) +
      number_entry("wall time", key + "wall_ns", report.wall_ns,
                   human_time(report.wall_ns) + " since the program's start") +
      entry("build", config_value(report, "build"));
  std::vector<std::string> notes;
  for (const Path path : kPaths) {
    if (const std::uint64_t errors = report.transport[path].errors; errors != 0) {
      notes.push_back(
          fmt::format("{} sessions ended by a fault on the {} path", errors, name_of(path)));
    }
  }
  std::string config;
  for (const auto& [name, value] : report.config) config += entry(name, value);
  return card(entries, notes, config);
}

std::vector<std::string> trace_notes(const ReportedTrace& trace) {
  const TraceHeader& header = trace.header;
  std::vector<std::string> notes;
  if (!trace.cut.empty()) notes.push_back(trace.cut);
  if (header.dropped != 0) {
    notes.push_back(fmt::format(
        "{} ops are missing: the disk could not keep up; their time counts as between ops",
        grouped(header.dropped)));
  }
  if (!header.assumed.empty())
    notes.push_back(fmt::format("assumed by the import: {}", fmt::join(header.assumed, ", ")));
  if (header.source == TraceSource::kSynthesised)
    notes.emplace_back("synthesised from the model's shape: nothing was measured");
  if (!trace.busy.in_order()) notes.emplace_back("ops are not in the order of their submits");
  return notes;
}

std::string trace_card(const std::string& key, const ReportedTrace& trace) {
  const TraceHeader& header = trace.header;
  const auto tokens = static_cast<std::uint64_t>(header.tokens);
  const std::string wall_time = human_time(trace.wall_ns()) +
                                (header.wall_ns ? "" : ", to the end of the last op that is there");
  const std::string entries =
      entry("side", fmt::format("tee_runner, {} trace", name_of(header.source))) +
      host_entries(header.host) + entry("model", header.model) +
      number_entry("tokens", key + "tokens", tokens,
                   fmt::format("{}, {} {}", grouped(tokens), grouped(header.runs),
                               header.runs == 1 ? "run" : "runs")) +
      number_entry("ops", key + "records", trace.all.calls, grouped(trace.all.calls)) +
      (trace.has_times() ? number_entry("wall time", key + "wall_ns", trace.wall_ns(), wall_time)
                         : entry("wall time", {})) +
      entry("build", header.build);
  const ModelDims& dims = header.dims;
  const std::string config =
      entry("started", header.started_at) + entry("digest", header.digest) +
      entry("shape",
            fmt::format("{} layers, hidden {}, intermediate {}, heads {}/{} of {}, vocabulary {}",
                        dims.layers, dims.hidden, dims.intermediate, dims.heads, dims.kv_heads,
                        dims.head_dim, dims.vocab)) +
      entry("wire", name_of(header.wire)) + entry("dtype", name_of(header.dtype)) +
      entry("attention", header.attention) + entry("backend", header.backend) +
      entry("path limit", fmt::format("{} B", grouped(header.path_limit_bytes))) +
      entry("ring slots", fmt::format("{}", header.ring_slots)) +
      entry("digests of tensors", header.digests ? "yes: they reveal contents" : "no") +
      entry("payload", header.payload.empty() ? "none" : header.payload);
  return card(entries, trace_notes(trace), config);
}

/// A card for each input: whose it is, and what is missing or guessed.
std::string inputs_section(const std::vector<Input>& inputs) {
  std::string cards;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const Input& input = inputs[i];
    cards += fmt::format("<article class=\"card\">{}{}</article>\n", input_heading(i, input),
                         input.stats() != nullptr ? stats_card(key_of(i), *input.stats())
                                                  : trace_card(key_of(i), *input.trace()));
  }
  return fmt::format("<div class=\"cards\">\n{}</div>\n", cards);
}

}  // namespace

std::string config_value(const SideReport& report, std::string_view key) {
  for (const auto& [name, value] : report.config) {
    if (name == key) return value;
  }
  return {};
}

std::string key_of(std::size_t input) { return fmt::format("inputs.{}.", input); }

std::string for_each_input(const std::vector<Input>& inputs, const InputPart& part) {
  std::string body;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const std::string made = part(inputs[i], key_of(i));
    if (!made.empty()) body += input_heading(i, inputs[i]) + made;
  }
  return body;
}

std::string render_page(const std::vector<Input>& inputs, const PageOrigin& origin) {
  ChartIds ids;
  struct Part {
    const char* id;
    const char* name;
    const char* heading;
    std::string body;
  };
  const Part parts[] = {
      {"inputs", "Inputs", "Inputs", inputs_section(inputs)},
      {"time", "Time", "Time", time_section(inputs, ids)},
      {"latency", "Latency", "Latency", latency_section(inputs, ids)},
      {"text", "Answers", "Answers", text_section(inputs, ids)},
      {"passes", "Passes", "Passes and steps", passes_section(inputs, ids)},
      {"paths", "Paths", "Paths", paths_section(inputs, ids)},
      {"timeline", "Over time", "Over time", timeline_section(inputs, ids)},
      {"biggest", "Biggest ops", "Biggest ops", biggest_section(inputs)},
      {"reconcile", "Agreement", "Do both sides agree?", reconcile_section(inputs)},
  };
  std::string nav;
  std::string body;
  for (const auto& [id, name, heading, part] : parts) {
    if (part.empty()) continue;
    nav += fmt::format("<li><a href=\"#{}\">{}</a></li>", id, name);
    body += fmt::format("<section id=\"{}\"><h2>{}</h2>\n{}</section>\n", id, heading, part);
  }
  return fmt::format(
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
      "<meta http-equiv=\"Content-Security-Policy\" content=\"{}\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
      "<meta name=\"referrer\" content=\"no-referrer\">\n"
      "<title>Airlock report</title>\n<style>{}</style>\n</head>\n<body>\n{}<header><h1>Airlock "
      "report</h1>\n<p class=\"soft\">{} {}, made {} by {}.</p>\n"
      "<nav aria-label=\"Sections\"><ul>{}</ul></nav></header>\n<main>\n{}</main>\n"
      "<footer>Times are wall time, sizes are payload bytes without headers; docs/STATS.md and "
      "docs/TRACE_FORMAT.md define each number. Queue and server times are the server's "
      "word.</footer>\n</body>\n</html>\n",
      kPolicy, kStyleSheet, pattern_definitions(), inputs.size(),
      inputs.size() == 1 ? "file" : "files", escape_html(origin.made_at), escape_html(origin.build),
      nav, body);
}

}  // namespace airlock::report
