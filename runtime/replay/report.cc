#include "runtime/replay/report.h"

#include <fmt/format.h>

#include <array>
#include <optional>
#include <utility>

#include "base/safe_text.h"
#include "base/saturating.h"
#include "runtime/json/writer.h"
#include "runtime/text/figures.h"
#include "runtime/text/table.h"

namespace airlock {
namespace {

/// nullopt: not known.
using Known = std::optional<std::uint64_t>;

/// What one side's time went to, and shares of that. The parts of ops that were under way at once
/// each count whole, so that `all_ns` may be more than the wall. Where the TEE's time is not known
/// there is no whole, and there are no shares.
struct TimeShares {
  explicit TimeShares(const ReplaySide& side) {
    const OpTimes& times = side.sums.all.times;
    parts = {{{"tee", std::nullopt},
              {"wire", times.wire_ns},
              {"queue", times.queue_ns},
              {"server", times.server_ns},
              {"idle", side.idle_ns}}};
    if (!side.between_ns) return;
    wall_ns = side.wall_ns;
    parts[0].second = add_saturating(*side.between_ns, times.tee_ns);
    for (const auto& [name, ns] : parts) merge(all_ns, *ns);
  }
  std::optional<double> share(const Known& ns) const {
    if (all_ns == 0) return std::nullopt;
    return static_cast<double>(ns.value_or(0)) / static_cast<double>(all_ns);
  }
  Known wall_ns;
  std::array<std::pair<std::string_view, Known>, 5> parts;
  std::uint64_t all_ns = 0;
};

/// Everything that more than one form prints.
struct Figures {
  explicit Figures(const ReplayResult& of)
      : result(of), counts(of.sum()), recorded(counts.recorded), replayed(counts.replayed) {
    const double seconds = static_cast<double>(counts.wall_ns()) / 1e9;
    if (seconds > 0) {
      ops_per_s = static_cast<double>(counts.ops()) / seconds;
      gb_per_s = static_cast<double>(bytes()) / 1e9 / seconds;
    }
  }
  std::uint64_t bytes() const { return counts.replayed.sums.all.bytes(); }
  /// visit(name, recorded, replayed) of each op that was replayed.
  void visit_ops(const auto& visit) const {
    for (const Op op : kComputeOps) {
      const OpSums& sums = counts.replayed.sums.ops[op];
      if (sums.calls != 0) visit(name_of(op), counts.recorded.sums.ops[op], sums);
    }
  }
  /// visit(path, "sent" or "received", recorded, replayed).
  void visit_paths(const auto& visit) const {
    for (const Path path : kPaths) {
      const PathSnapshot& a = counts.recorded.sums.paths[path];
      const PathSnapshot& b = counts.replayed.sums.paths[path];
      visit(name_of(path), "sent", a.sent, b.sent);
      visit(name_of(path), "received", a.received, b.received);
    }
  }

  const ReplayResult& result;
  ReplayCounts counts;
  TimeShares recorded;
  TimeShares replayed;
  double ops_per_s = 0;
  double gb_per_s = 0;
};

/// nullopt where nothing was timed, as in a synthesised trace.
std::optional<double> ratio(const OpSums& recorded, const OpSums& replayed) {
  if (recorded.times.total_ns == 0) return std::nullopt;
  return static_cast<double>(replayed.times.total_ns) /
         static_cast<double>(recorded.times.total_ns);
}

// --- json

std::optional<std::string_view> text_or_null(std::string_view text) {
  return text.empty() ? std::nullopt : std::optional(text);
}

/// What `visit(each)` shows.
JsonObject object_of(const auto& visit) {
  JsonObject json;
  visit([&json](std::string_view key, std::uint64_t number) { json.add(key, number); });
  return json;
}

JsonObject paths_json(const TransportSnapshot& recorded, const TransportSnapshot& replayed) {
  const auto flow = [](const DirectionSnapshot& direction) {
    return object_of([&](const auto& each) { DirectionSnapshot::visit(each, direction); });
  };
  const auto both = [&](const PathSnapshot& path) {
    return JsonObject{{"sent", flow(path.sent)}, {"received", flow(path.received)}};
  };
  JsonObject json;
  for (const Path path : kPaths) {
    json.add(name_of(path),
             JsonObject{{"recorded", both(recorded[path])}, {"replayed", both(replayed[path])}});
  }
  return json;
}

JsonObject ops_json(const Figures& figures) {
  const auto times = [](const OpSums& sums) {
    return object_of([&](const auto& each) { visit_times(each, sums.times); });
  };
  JsonObject json;
  figures.visit_ops([&](std::string_view name, const OpSums& recorded, const OpSums& replayed) {
    json.add(name, JsonObject{{"calls", replayed.calls},
                              {"recorded", times(recorded)},
                              {"replayed", times(replayed)},
                              {"ratio", ratio(recorded, replayed)},
                              {"latency_ns", histogram_json(replayed.call_ns)}});
  });
  return json;
}

JsonObject time_json(const ReplaySide& side, const TimeShares& shares) {
  JsonObject json = {{"wall_ns", shares.wall_ns}, {"between_ns", side.between_ns}};
  JsonObject share;
  for (const auto& [name, ns] : shares.parts) {
    json.add(fmt::format("{}_ns", name), ns);
    share.add(name, shares.share(ns));
  }
  return json.add("share", share);
}

std::vector<JsonObject> clients_json(const ReplayResult& result) {
  std::vector<JsonObject> clients;
  for (const auto& [counts, error] : result.clients) {
    clients.push_back({{"ops", counts.ops()},
                       {"bytes", counts.replayed.sums.all.bytes()},
                       {"wall_ns", counts.wall_ns()},
                       {"error", text_or_null(error)}});
  }
  return clients;
}

std::string format_json(const Figures& figures) {
  const ReplayResult& result = figures.result;
  const ReplayCounts& counts = figures.counts;
  const ReplaySettings& settings = result.settings;
  return JsonObject{
      {"schema_version", 1},
      {"trace", JsonObject{{"file", settings.file},
                           {"source", result.trace.source},
                           {"model", result.trace.model},
                           {"tokens", result.trace.tokens},
                           {"started_at", result.trace.started_at},
                           {"dropped", result.trace.dropped},
                           {"cut", text_or_null(result.cut)}}},
      {"server", JsonObject{{"device", result.server.device},
                            {"dtype", result.server.dtype},
                            {"digest", result.server.digest}}},
      {"config", JsonObject{{"speed", settings.speed},
                            {"repeat", settings.repeat},
                            {"clients", settings.clients},
                            {"inflight", settings.inflight},
                            {"inputs", result.recorded_inputs ? "payload" : "seed"}}},
      {"complete", result.complete},
      {"wall_ns", counts.wall_ns()},
      {"op_count", counts.ops()},
      {"bytes", figures.bytes()},
      {"ops_per_s", figures.ops_per_s},
      {"gb_per_s", figures.gb_per_s},
      {"ops", ops_json(figures)},
      {"same_paths", result.same_paths},
      {"paths", paths_json(counts.recorded.sums.paths, counts.replayed.sums.paths)},
      {"time", JsonObject{{"recorded", time_json(counts.recorded, figures.recorded)},
                          {"replayed", time_json(counts.replayed, figures.replayed)}}},
      {"verify", JsonObject{{"mode", settings.verify},
                            {"tensors", counts.tensors_checked},
                            {"differing", counts.tensors_differing},
                            {"first", text_or_null(counts.first_difference)}}},
      {"clients", clients_json(result)}}
      .line();
}

// --- csv

std::string format_csv(const Figures& figures) {
  const ReplayCounts& counts = figures.counts;
  Table table({"kind", "name", "field", "recorded", "replayed"});
  figures.visit_ops([&](std::string_view name, const OpSums& recorded, const OpSums& replayed) {
    table.add({"op", name, "calls", recorded.calls, replayed.calls});
    visit_times(
        [&](std::string_view key, std::uint64_t a, std::uint64_t b) {
          table.add({"op", name, key, a, b});
        },
        recorded.times, replayed.times);
    for (const auto& [key, share] : kPercentiles) {
      table.add({"op", name, fmt::format("{}_ns", key), {}, replayed.call_ns.percentile(share)});
    }
    table.add({"op", name, "max_ns", {}, replayed.call_ns.max});
    if (const auto value = ratio(recorded, replayed)) table.add({"op", name, "ratio", {}, *value});
  });
  figures.visit_paths([&](std::string_view path, std::string_view direction,
                          const DirectionSnapshot& recorded, const DirectionSnapshot& replayed) {
    DirectionSnapshot::visit(
        [&](std::string_view key, std::uint64_t a, std::uint64_t b) {
          table.add({"path", path, fmt::format("{}_{}", direction, key), a, b});
        },
        recorded, replayed);
  });
  for (std::size_t i = 0; i < figures.replayed.parts.size(); ++i) {
    const auto& [name, ns] = figures.replayed.parts[i];
    const Known& recorded_ns = figures.recorded.parts[i].second;
    table.add({"time", name, "ns", recorded_ns, ns});
    table.add(
        {"time", name, "share", figures.recorded.share(recorded_ns), figures.replayed.share(ns)});
  }
  table.add({"time", "wall", "ns", figures.recorded.wall_ns, figures.replayed.wall_ns});
  const auto total = [&table](std::string_view field, const Cell& value) {
    table.add({"total", "replay", field, {}, value});
  };
  total("complete", figures.result.complete ? 1 : 0);
  total("wall_ns", counts.wall_ns());
  total("ops", counts.ops());
  total("bytes", figures.bytes());
  total("ops_per_s", figures.ops_per_s);
  total("gb_per_s", figures.gb_per_s);
  const std::string_view verify = name_of(figures.result.settings.verify);
  table.add({"verify", verify, "tensors", {}, counts.tensors_checked});
  table.add({"verify", verify, "differing", {}, counts.tensors_differing});
  return table.csv();
}

// --- markdown

std::string md_ops(const Figures& figures) {
  Table table({left("op"), "calls", "recorded ms", "replayed ms", "ratio", "p50 ms", "p99 ms"});
  const auto add = [&](std::string_view name, const OpSums& recorded, const OpSums& replayed) {
    const auto value = ratio(recorded, replayed);
    table.add({name, replayed.calls, value ? Cell::ms(recorded.times.total_ns) : Cell(),
               Cell::ms(replayed.times.total_ns), value ? Cell::real(*value, 2) : Cell(),
               Cell::ms(replayed.call_ns.percentile(0.50)),
               Cell::ms(replayed.call_ns.percentile(0.99))});
  };
  figures.visit_ops(add);
  add("all", figures.counts.recorded.sums.all, figures.counts.replayed.sums.all);
  return table.markdown(Table::Padding::kNone);
}

std::string md_paths(const Figures& figures) {
  Table table({left("path"), "messages recorded", "replayed", "tensors recorded", "replayed",
               "bytes recorded", "replayed"});
  figures.visit_paths([&](std::string_view path, std::string_view direction,
                          const DirectionSnapshot& recorded, const DirectionSnapshot& replayed) {
    Cells row = {fmt::format("{} {}", path, direction)};
    DirectionSnapshot::visit(
        [&row](std::string_view, std::uint64_t a, std::uint64_t b) {
          row.insert(row.end(), {a, b});
        },
        recorded, replayed);
    table.add(std::move(row));
  });
  std::string text = table.markdown(Table::Padding::kNone);
  if (figures.result.trace.backend == "local") {
    text += "\nThe trace was recorded with --backend local: nothing crossed then.\n";
  } else if (!figures.result.same_paths) {
    text += "\nThe session's ring is not the recorded one: tensors may have taken other paths.\n";
  }
  return text;
}

std::string md_time(const Figures& figures) {
  Table table({left("share of the time"), "TEE", "wire", "queue", "server", "idle", "wall ms"});
  const auto add = [&table](const char* name, const TimeShares& shares) {
    Cells row = {name};
    for (const auto& [part, ns] : shares.parts)
      row.emplace_back(
          percent_text(static_cast<double>(ns.value_or(0)), static_cast<double>(shares.all_ns)));
    row.push_back(shares.all_ns == 0 ? Cell() : Cell::ms(*shares.wall_ns));
    table.add(std::move(row));
  };
  add("recorded", figures.recorded);
  add("replayed", figures.replayed);
  std::string text = table.markdown(Table::Padding::kNone);
  if (const std::uint64_t dropped = figures.result.trace.dropped; dropped > 0) {
    text += fmt::format(
        "\n{} ops are missing from the trace, as the disk could not keep up: recorded, their time "
        "counts as the TEE's.\n",
        dropped);
  }
  return text;
}

std::string md_failures(const ReplayResult& result) {
  std::string text;
  if (!result.complete) text += "\n**Partial**: the replay did not come to its end.\n";
  for (std::size_t i = 0; i < result.clients.size(); ++i) {
    const ReplayClientResult& client = result.clients[i];
    if (client.error.empty()) continue;
    // It may hold the server's own words.
    text += fmt::format("- client {}, after {} ops: {}\n", i + 1, client.counts.ops(),
                        without_controls(client.error, "?"));
  }
  return text;
}

std::string format_markdown(const Figures& figures) {
  const ReplayResult& result = figures.result;
  const ReplayCounts& counts = figures.counts;
  const ReplaySettings& settings = result.settings;
  Table total({"clients", "repeat", "in flight", left("speed"), "wall ms", "ops", "ops/s",
               "GB moved", "GB/s"});
  total.add({settings.clients, settings.repeat, settings.inflight, name_of(settings.speed),
             Cell::ms(counts.wall_ns()), counts.ops(), Cell::real(figures.ops_per_s, 1),
             Cell::real(static_cast<double>(figures.bytes()) / 1e9, 3),
             Cell::real(figures.gb_per_s, 3)});
  std::string text = md_ops(figures) + '\n' + md_paths(figures) + '\n' + md_time(figures) + '\n' +
                     total.markdown(Table::Padding::kNone);
  if (settings.verify != ReplayVerify::kNone) {
    text += fmt::format("\n--verify {}: {} of {} tensors differ.\n", name_of(settings.verify),
                        counts.tensors_differing, counts.tensors_checked);
  }
  if (!result.cut.empty()) text += fmt::format("\n{}.\n", result.cut);
  return text + md_failures(result);
}

}  // namespace

ReplayCounts ReplayResult::sum() const {
  ReplayCounts sum;
  for (const ReplayClientResult& client : clients) sum.merge(client.counts);
  sum.replayed.sums.paths = transport;
  if (trace.backend == "local") sum.recorded.sums.paths = {};
  return sum;
}

std::string format_replay(const ReplayResult& result, OutputForm form) {
  const Figures figures(result);
  switch (form) {
    case OutputForm::kJson:
      return format_json(figures);
    case OutputForm::kCsv:
      return format_csv(figures);
    case OutputForm::kMarkdown:
      break;
  }
  return format_markdown(figures);
}

}  // namespace airlock
