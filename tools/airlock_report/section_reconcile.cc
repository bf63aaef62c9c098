#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <utility>

#include "tools/airlock_report/format.h"
#include "tools/airlock_report/sections.h"
#include "tools/airlock_report/table.h"

namespace airlock::report {
namespace {

/// A bar a direction, in a segment for each path. `sent` and `received` are what they are called.
std::string path_bars(ChartIds& ids, std::string title, const std::string& sent,
                      const std::string& received, const TransportSnapshot& paths) {
  std::string words;
  std::vector<BarRow> rows;
  for (const auto& [name, direction] :
       {std::pair(sent, &PathSnapshot::sent), std::pair(received, &PathSnapshot::received)}) {
    BarRow& row = rows.emplace_back(BarRow{name, {}, {}});
    words +=
        fmt::format("{}{:c}{}:", words.empty() ? "" : ". ", std::toupper(name[0]), name.substr(1));
    for (const Path path : kPaths) {
      const std::uint64_t bytes = (paths[path].*direction).bytes;
      row.segments.push_back({series_of(path), bytes});
      words += fmt::format("{} {} by {}", path == kPaths.front() ? "" : ",", human_bytes(bytes),
                           series_of(path).name);
    }
    row.value = human_bytes(total_of(row.segments));
  }
  return stacked_bars(ids, {std::move(title), words + '.'}, rows, Unit::kBytes) +
         legend(rows.front().segments);
}

std::string stats_paths(const std::string& key, const SideReport& report, ChartIds& ids) {
  Table counts("Messages, tensors and bytes", {"path", "messages", "tensors", "bytes", "bytes"});
  Table waits("Waits and faults", {"path", "errors", "slot waits", "spins", "parks"});
  for (const Path path : kPaths) {
    const PathSnapshot& stats = report.transport[path];
    const std::string prefix = fmt::format("{}paths.{}.", key, name_of(path));
    for (const auto& [name, direction] :
         {std::pair("sent", stats.sent), std::pair("received", stats.received)}) {
      counts.row(fmt::format("{} {}", name_of(path), name));
      counts.numbers(fmt::format("{}{}.", prefix, name), direction);
      counts.derived(human_bytes(direction.bytes));
    }
    waits.row(name_of(path));
    waits.numbers(prefix, stats);
  }
  return path_bars(ids, "Bytes sent and received", "sent", "received", report.transport) +
         counts.html() + waits.html();
}

std::string trace_paths(const std::string& key, const ReportedTrace& trace, ChartIds& ids) {
  Table table("Tensors and bytes",
              {"path", "inputs", "inputs, bytes", "outputs", "outputs, bytes"});
  for (const Path path : kPaths) {
    const PathSnapshot& sums = trace.paths[path];
    const std::string prefix = fmt::format("{}paths.{}.", key, name_of(path));
    table.row(name_of(path));
    table.number(prefix + "input_tensors", sums.sent.tensors);
    table.number(prefix + "input_bytes", sums.sent.bytes);
    table.number(prefix + "output_tensors", sums.received.tensors);
    table.number(prefix + "output_bytes", sums.received.bytes);
  }
  return path_bars(ids, "Bytes of inputs and outputs", "inputs", "outputs", trace.paths) +
         table.html();
}

std::string counts_text(const DirectionSnapshot& counts) {
  return fmt::format("{} / {} / {}", grouped(counts.messages), grouped(counts.tensors),
                     grouped(counts.bytes));
}

/// Adds the session's rows; whether all agree.
bool add_session(Table& table, const std::string& key, const SideReport& runner,
                 const SessionReport& session) {
  bool all = true;
  for (const Path path : kPaths) {
    const PathSnapshot& ours = runner.transport[path];
    const PathSnapshot& theirs = session.transport[path];
    const auto add = [&](std::string_view what, const DirectionSnapshot& sent,
                         const DirectionSnapshot& received) {
      const bool agree = sent == received;
      all = all && agree;
      table.row(fmt::format("{} {}", name_of(path), what));
      table.derived(counts_text(sent));
      table.derived(counts_text(received));
      table.number_as(fmt::format("{}{}.{}", key, name_of(path), what), agree ? 1 : 0,
                      agree ? "yes" : "NO");
    };
    add("requests", ours.sent, theirs.received);
    add("replies", theirs.sent, ours.received);
  }
  return all;
}

/// With the server's session of this runner, by its id. A runner without one (it had several, or it
/// is from elsewhere) is compared with nobody's.
std::string reconcile_runner(const std::string& key, const SideReport& runner,
                             std::size_t server_number, const SideReport& server) {
  const std::string epoch = config_value(runner, "epoch");
  if (epoch.empty())
    return "<p>This file is not of one session alone: there is none to compare with.</p>\n";
  const auto session = std::ranges::find_if(server.sessions, [&](const SessionReport& one) {
    return one.id == epoch && one.sessions == 1;
  });
  if (session == server.sessions.end()) {
    return fmt::format("<p>File {} has no session of this runner by itself ({}).</p>\n",
                       server_number, html_text("epoch " + epoch));
  }
  Table table("Messages / tensors / bytes that one side sent and the other received",
              {"path", "sent", "received", "the same"});
  const bool all = add_session(table, key + "reconcile.", runner, *session);
  return fmt::format(
             "<p>Session {} of {}, by file {}: <span class=\"{}\" data-key=\"{}agree\" "
             "data-value=\"{}\">{}</span></p>\n",
             html_text(session->id), html_text(session->client), server_number, all ? "yes" : "no",
             key, all ? 1 : 0, all ? "yes, both sides agree" : "NO, they differ") +
         table.html();
}

}  // namespace

std::string paths_section(const std::vector<Input>& inputs, ChartIds& ids) {
  return "<p>A message counts on the path of its header, a tensor on the path that it took "
         "itself.</p>\n" +
         for_each_input(inputs, [&](const Input& input, const std::string& key) {
           return input.stats() != nullptr ? stats_paths(key, *input.stats(), ids)
                                           : trace_paths(key, *input.trace(), ids);
         });
}

std::string reconcile_section(const std::vector<Input>& inputs) {
  const auto is_server = [](const Input& input) { return input.kind() == "gpu_server"; };
  if (std::ranges::count_if(inputs, is_server) != 1) return {};
  const auto server = std::ranges::find_if(inputs, is_server);
  const auto number = static_cast<std::size_t>(server - inputs.begin()) + 1;
  const std::string body = for_each_input(inputs, [&](const Input& input, const std::string& key) {
    return input.kind() != "tee_runner"
               ? std::string()
               : reconcile_runner(key, *input.stats(), number, *server->stats());
  });
  if (body.empty()) return {};
  return "<p>After a clean session, what one side sent on a path is what the other "
         "received.</p>\n" +
         body;
}

}  // namespace airlock::report
