#include <fmt/format.h>

#include "tools/airlock_report/format.h"
#include "tools/airlock_report/sections.h"

namespace airlock::report {
namespace {

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

std::string notes_list(const std::vector<std::string>& notes) {
  if (notes.empty()) return {};
  std::string items;
  for (const std::string& note : notes) items += fmt::format("<li>{}</li>", html_text(note));
  return fmt::format("<ul class=\"notes\">{}</ul>", items);
}

std::string more(const std::string& entries) {
  return fmt::format("<details><summary>Configuration</summary><dl>{}</dl></details>", entries);
}

std::string stats_card(const std::string& key, const SideReport& report) {
  std::string entries = entry("side", report.side) + host_entries(report.host) +
                        entry("model", config_value(report, "model")) +
                        entry("tokens", config_value(report, "tokens"));
  entries += number_entry("wall time", key + "wall_ns", report.wall_ns,
                          human_time(report.wall_ns) + " since the program's start");
  entries += entry("build", config_value(report, "build"));
  std::vector<std::string> notes;
  for (const Path path : kPaths) {
    if (const std::uint64_t errors = report.transport[path].errors; errors != 0) {
      notes.push_back(
          fmt::format("{} sessions ended by a fault on the {} path", errors, name_of(path)));
    }
  }
  std::string config;
  for (const auto& [name, value] : report.config) config += entry(name, value);
  return fmt::format("<dl>{}</dl>{}{}", entries, notes_list(notes),
                     config.empty() ? std::string() : more(config));
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
  std::string entries = entry("side", fmt::format("tee_runner, {} trace", name_of(header.source)));
  entries += host_entries(header.host) + entry("model", header.model);
  entries +=
      number_entry("tokens", key + "tokens", static_cast<std::uint64_t>(header.tokens),
                   fmt::format("{}, {} {}", grouped(static_cast<std::uint64_t>(header.tokens)),
                               grouped(header.runs), header.runs == 1 ? "run" : "runs"));
  entries += number_entry("ops", key + "records", trace.all.calls, grouped(trace.all.calls));
  if (trace.has_times()) {
    entries +=
        number_entry("wall time", key + "wall_ns", trace.wall_ns(),
                     human_time(trace.wall_ns()) +
                         (header.wall_ns ? "" : ", to the end of the last op that is there"));
  } else {
    entries += entry("wall time", {});
  }
  entries += entry("build", header.build);
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
  return fmt::format("<dl>{}</dl>{}{}", entries, notes_list(trace_notes(trace)), more(config));
}

}  // namespace

std::string config_value(const SideReport& report, std::string_view key) {
  for (const auto& [name, value] : report.config) {
    if (name == key) return value;
  }
  return {};
}

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

}  // namespace airlock::report
