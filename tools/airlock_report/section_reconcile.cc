#include <fmt/format.h>

#include <array>

#include "tools/airlock_report/format.h"
#include "tools/airlock_report/sections.h"
#include "tools/airlock_report/table.h"

namespace airlock::report {
namespace {

void add_direction(Table& table, const std::string& prefix, std::string_view path,
                   std::string_view direction, const DirectionSnapshot& counts) {
  const std::string key = fmt::format("{}paths.{}.{}.", prefix, path, direction);
  table.row(fmt::format("{} {}", path, direction));
  table.number(key + "messages", counts.messages);
  table.number(key + "tensors", counts.tensors);
  table.number(key + "bytes", counts.bytes);
  table.derived(human_bytes(counts.bytes));
}

std::string stats_paths(const std::string& key, const SideReport& report, ChartIds& ids) {
  const PathSnapshot& ring = report.transport[Path::kRing];
  const PathSnapshot& zmq = report.transport[Path::kZmq];
  const auto row = [](std::string label, std::uint64_t by_ring, std::uint64_t by_zmq) {
    return BarRow{std::move(label),
                  {{Series::kRing, by_ring}, {Series::kZmq, by_zmq}},
                  human_bytes(by_ring + by_zmq)};
  };
  const ChartText text{
      "Bytes sent and received",
      fmt::format("Sent: {} by the ring, {} by ZeroMQ. Received: {} by the ring, {} by ZeroMQ.",
                  human_bytes(ring.sent.bytes), human_bytes(zmq.sent.bytes),
                  human_bytes(ring.received.bytes), human_bytes(zmq.received.bytes))};
  Table counts("Messages, tensors and bytes", {"path", "messages", "tensors", "bytes", "bytes"});
  Table waits("Waits and faults", {"path", "errors", "slot waits", "spins", "parks"});
  for (const Path path : kPaths) {
    const PathSnapshot& stats = report.transport[path];
    add_direction(counts, key, name_of(path), "sent", stats.sent);
    add_direction(counts, key, name_of(path), "received", stats.received);
    const std::string prefix = fmt::format("{}paths.{}.", key, name_of(path));
    waits.row(name_of(path));
    waits.number(prefix + "errors", stats.errors);
    waits.number(prefix + "slot_waits", stats.slot_waits);
    waits.number(prefix + "spins", stats.spins);
    waits.number(prefix + "parks", stats.parks);
  }
  return stacked_bars(ids, text,
                      {row("sent", ring.sent.bytes, zmq.sent.bytes),
                       row("received", ring.received.bytes, zmq.received.bytes)},
                      Unit::kBytes) +
         legend({Series::kRing, Series::kZmq}) + counts.html() + waits.html();
}

std::string trace_paths(const std::string& key, const TraceSummary& trace, ChartIds& ids) {
  const TracePath& ring = trace.paths[Path::kRing];
  const TracePath& zmq = trace.paths[Path::kZmq];
  const ChartText text{"Bytes of inputs and outputs",
                       fmt::format("Inputs: {} by the ring, {} by ZeroMQ. Outputs: {} by the ring, "
                                   "{} by ZeroMQ.",
                                   human_bytes(ring.input_bytes), human_bytes(zmq.input_bytes),
                                   human_bytes(ring.output_bytes), human_bytes(zmq.output_bytes))};
  Table table("Tensors and bytes",
              {"path", "inputs", "inputs, bytes", "outputs", "outputs, bytes"});
  for (const Path path : kPaths) {
    const TracePath& sums = trace.paths[path];
    const std::string prefix = fmt::format("{}paths.{}.", key, name_of(path));
    table.row(name_of(path));
    table.number(prefix + "input_tensors", sums.input_tensors);
    table.number(prefix + "input_bytes", sums.input_bytes);
    table.number(prefix + "output_tensors", sums.output_tensors);
    table.number(prefix + "output_bytes", sums.output_bytes);
  }
  const BarRow inputs{"inputs",
                      {{Series::kRing, ring.input_bytes}, {Series::kZmq, zmq.input_bytes}},
                      human_bytes(add_saturating(ring.input_bytes, zmq.input_bytes))};
  const BarRow outputs{"outputs",
                       {{Series::kRing, ring.output_bytes}, {Series::kZmq, zmq.output_bytes}},
                       human_bytes(add_saturating(ring.output_bytes, zmq.output_bytes))};
  return stacked_bars(ids, text, {inputs, outputs}, Unit::kBytes) +
         legend({Series::kRing, Series::kZmq}) + table.html();
}

/// The server's session of this runner, by its id. A runner without one (it had several, or it is
/// from elsewhere) is compared with nobody's.
const SessionReport* session_of(const SideReport& runner, const SideReport& server) {
  const std::string epoch = config_value(runner, "epoch");
  for (const SessionReport& session : server.sessions) {
    if (!epoch.empty() && session.id == epoch && session.sessions == 1) return &session;
  }
  return nullptr;
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

std::string reconcile_runner(std::size_t index, const Input& input, std::size_t server_index,
                             const SideReport& server) {
  std::string body = input_heading(index, input);
  const SessionReport* session = session_of(*input.stats(), server);
  if (session == nullptr) {
    const std::string epoch = config_value(*input.stats(), "epoch");
    if (epoch.empty()) {
      return body +
             "<p>This file is not of one session alone: there is none to compare with.</p>\n";
    }
    return body + fmt::format("<p>File {} has no session of this runner by itself ({}).</p>\n",
                              server_index + 1, html_text("epoch " + epoch));
  }
  Table table("Messages / tensors / bytes that one side sent and the other received",
              {"path", "sent", "received", "the same"});
  const bool all =
      add_session(table, fmt::format("{}reconcile.", key_of(index)), *input.stats(), *session);
  return body +
         fmt::format(
             "<p>Session {} of {}, by file {}: <span class=\"{}\" data-key=\"{}agree\" "
             "data-value=\"{}\">{}</span></p>\n",
             html_text(session->id), html_text(session->client), server_index + 1,
             all ? "yes" : "no", key_of(index), all ? 1 : 0,
             all ? "yes, both sides agree" : "NO, they differ") +
         table.html();
}

}  // namespace

std::string paths_section(const std::vector<Input>& inputs, ChartIds& ids) {
  std::string body =
      "<p>A message counts on the path of its header, a tensor on the path that it took itself.</p>"
      "\n";
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    body += input_heading(i, inputs[i]);
    body += inputs[i].stats() != nullptr ? stats_paths(key_of(i), *inputs[i].stats(), ids)
                                         : trace_paths(key_of(i), *inputs[i].trace(), ids);
  }
  return body;
}

std::string reconcile_section(const std::vector<Input>& inputs) {
  std::vector<std::size_t> runners;
  std::vector<std::size_t> servers;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    if (inputs[i].stats() != nullptr)
      (inputs[i].stats()->side == "gpu_server" ? servers : runners).push_back(i);
  }
  if (runners.empty() || servers.size() != 1) return {};
  std::string body =
      "<p>After a clean session, what one side sent on a path is what the other received.</p>\n";
  for (const std::size_t i : runners)
    body += reconcile_runner(i, inputs[i], servers[0], *inputs[servers[0]].stats());
  return body;
}

}  // namespace airlock::report
