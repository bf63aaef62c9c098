#include "tools/airlock_pool/list.h"

#include <fmt/format.h>

#include "runtime/json/writer.h"
#include "runtime/text/figures.h"
#include "runtime/text/table.h"
#include "tools/airlock_stat/show.h"
#include "tools/airlock_stat/source.h"

namespace airlock::pool_tool {
namespace {

double seconds(std::uint64_t ns) { return static_cast<double>(ns) / 1e9; }

/// One row for each use, and one for the slots that are any's.
Table uses_table(const CountersSnapshot& snapshot) {
  const PoolShape& shape = snapshot.server.pool;
  const PoolFigures& figures = snapshot.pool;
  Table table({left("use"), "slots", Column("of one client", "quota"),
               Column("leased", "leased_bytes"), Column("high water", "high_water_bytes"),
               Column("free", "free_bytes"), Column("longest free run", "longest_free_bytes"),
               "fragmentation"});
  const auto add = [&](std::string_view name, std::uint64_t slots, Cell quota, Cell leased,
                       Cell high_water, const PoolFigures::Free& free) {
    const double joined =
        free.slots == 0 ? 1
                        : static_cast<double>(free.longest_run) / static_cast<double>(free.slots);
    table.add({name, slots, std::move(quota), std::move(leased), std::move(high_water),
               Cell::size(free.slots * shape.slot_bytes),
               Cell::size(free.longest_run * shape.slot_bytes),
               free.slots == 0 ? Cell() : Cell::real(1 - joined, 2)});
  };
  for (const PoolUse use : kValuesOf<PoolUse>) {
    add(name_of(use), shape.slots[use], shape.quota(use), Cell::size(figures.leased_bytes[use]),
        Cell::size(figures.high_water_bytes[use]), figures.own[use]);
  }
  add("spare", shape.spare_slots, Cell(), Cell(), Cell(), figures.spare);
  return table;
}

/// One row for each use that a session asked for.
Table holders_table(const CountersSnapshot& snapshot) {
  Table table({left("session"), left("client"), left("use"), "offset", Column("bytes", "bytes"),
               Column("asked", "asked_bytes"), Column("since s", "since_s")});
  for (const CountersSnapshot::Holder& holder : snapshot.holders) {
    for (const PoolUse use : kValuesOf<PoolUse>) {
      if (holder.lease.asked[use] == 0) continue;
      Cell offset;
      std::uint64_t bytes = 0;
      for (const PoolExtent& extent : holder.lease.extents) {
        if (extent.use != use) continue;
        offset = Cell::size(extent.offset);
        bytes = extent.bytes;
      }
      table.add({holder.session, holder.client, name_of(use), std::move(offset), Cell::size(bytes),
                 Cell::size(holder.lease.asked[use]), Cell::real(seconds(holder.age_ns), 1)});
    }
  }
  return table;
}

JsonObject pool_json(const CountersSnapshot& snapshot) {
  const PoolShape& shape = snapshot.server.pool;
  const PoolFigures& figures = snapshot.pool;
  return {{"bytes", shape.bytes()},
          {"slot_bytes", shape.slot_bytes},
          {"slots", shape.slot_count()},
          {"commit", snapshot.server.pool_commit},
          {"leased_bytes", figures.leased_all_bytes()},
          {"high_water_bytes", figures.high_water_all_bytes},
          {"granted", figures.granted},
          {"cut_short", figures.cut_short},
          {"refused", figures.refused},
          {"uses", uses_table(snapshot).json()},
          {"holders", holders_table(snapshot).json()}};
}

}  // namespace

Result<CountersSnapshot> look(const Endpoint& endpoint) {
  auto snapshot = look_at_file(endpoint);
  if (snapshot.status().code() != StatusCode::kUnavailable) return snapshot;
  if (const auto absent = no_server(endpoint)) return *absent;
  if (endpoint.kind == Endpoint::Kind::kIpc) {
    return Status(StatusCode::kUnavailable,
                  "the server at {} has no file of what it counts ({}): its log says why; start it "
                  "again",
                  endpoint.text(), snapshot.status().message());
  }
  return Status(StatusCode::kUnavailable,
                "no server to be looked at: {}; over tcp there is no pool in any case",
                snapshot.status().message());
}

std::string why_no_pool(const ServerInfo& server) {
  if (server.endpoint.starts_with("tcp://"))
    return "its memory crosses over ipc:// alone, and this server serves over tcp";
  if (!server.ring_on) return "it needs rings, and the server was started with --ring off";
  return "the server was started with --pool off, or found too little memory for one (its log says "
         "which)";
}

std::string show_pool(const CountersSnapshot& snapshot, OutputForm form) {
  const bool has_pool = snapshot.server.pool.slot_count() > 0;
  if (form == OutputForm::kJson) {
    JsonObject json = {{"endpoint", snapshot.server.endpoint},
                       {"pid", snapshot.pid},
                       {"state", state_of(snapshot)},
                       {"settled", snapshot.settled},
                       {"pool", has_pool ? std::optional(pool_json(snapshot)) : std::nullopt}};
    if (!has_pool) json.add("why", why_no_pool(snapshot.server));
    return json.line();
  }
  std::string text = describe_state(snapshot) + "\n";
  if (!has_pool) return text + "no pool: " + why_no_pool(snapshot.server) + "\n";
  const PoolFigures& figures = snapshot.pool;
  text += fmt::format(
      "a pool of {} in {}, committed {}\n"
      "{} leased now, {} at most at one time; leases: {} granted, {} of them cut short for want of "
      "room, {} refused\n\n",
      size_text(snapshot.server.pool.bytes()), snapshot.server.pool.to_string(),
      snapshot.server.pool_commit == PoolCommit::kAll ? "at start" : "as it is touched",
      size_text(figures.leased_all_bytes()), size_text(figures.high_water_all_bytes),
      figures.granted, figures.cut_short, figures.refused);
  if (!snapshot.settled)
    text += "it stands still while leases change: what follows may be of two moments\n\n";
  text += uses_table(snapshot).markdown();
  const Table holders = holders_table(snapshot);
  return text + '\n' + (holders.empty() ? "nobody has any of it\n" : holders.markdown());
}

}  // namespace airlock::pool_tool
