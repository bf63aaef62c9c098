#include "tools/airlock_report/page.h"

#include <fmt/format.h>

#include <utility>

#include "tools/airlock_report/format.h"
#include "tools/airlock_report/sections.h"
#include "tools/airlock_report/style.h"

namespace airlock::report {
namespace {

/// Forbids all but the inline style: even if a text slipped through, it could neither run nor load
/// anything.
constexpr std::string_view kPolicy =
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'";

}  // namespace

std::string key_of(std::size_t input) { return fmt::format("inputs.{}.", input); }

std::string input_heading(std::size_t index, const Input& input) {
  const std::string kind = input.trace() != nullptr ? "trace" : input.stats()->side;
  return fmt::format("<h3><span class=\"number\">{}</span>{} <span class=\"soft\">{}</span></h3>\n",
                     index + 1, html_text(input.file), escape_html(kind));
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
      kPolicy, style_sheet(), pattern_definitions(), inputs.size(),
      inputs.size() == 1 ? "file" : "files", escape_html(origin.made_at), escape_html(origin.build),
      nav, body);
}

}  // namespace airlock::report
