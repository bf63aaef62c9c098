#include "tools/airlock_stat/show.h"

#include <fmt/format.h>

#include "runtime/json/writer.h"

namespace airlock {
namespace {

// Signs come every 200 ms.
constexpr std::uint64_t kSilentNs = 1'000'000'000;

double seconds(std::uint64_t ns) { return static_cast<double>(ns) / 1e9; }

JsonObject live_json(const CountersSnapshot& snapshot, StatSource::Scope scope) {
  if (scope == StatSource::Scope::kOwnSession) return {{"scope", "own session"}};
  return {{"scope", "server"},
          {"state", state_of(snapshot)},
          {"pid", snapshot.pid},
          {"start_unix_ns", snapshot.server.start_unix_ns},
          {"heartbeat_age_ns", snapshot.heartbeat_age_ns},
          {"sessions_active", snapshot.sessions_active},
          {"sessions_started", snapshot.sessions_started},
          {"sessions_refused", snapshot.sessions_refused},
          {"max_clients", snapshot.server.max_clients},
          {"settled", snapshot.settled}};
}

}  // namespace

ServerState state_of(const CountersSnapshot& snapshot) {
  if (!snapshot.alive) return ServerState::kEnded;
  return snapshot.heartbeat_age_ns > kSilentNs ? ServerState::kSilent : ServerState::kServing;
}

std::string describe_state(const CountersSnapshot& snapshot) {
  std::string sign = fmt::format("last sign {:.1f} s ago", seconds(snapshot.heartbeat_age_ns));
  if (state_of(snapshot) == ServerState::kSilent) sign = "hangs or was stopped: " + sign;
  if (state_of(snapshot) == ServerState::kEnded)
    sign = "ended without cleaning up: " + sign + "; the next server here replaces its file";
  return fmt::format(
      "gpu_server pid {} at {}, up {:.1f} s; {} of {} sessions under way, {} begun, {} refused; {}",
      snapshot.pid, snapshot.server.endpoint, seconds(snapshot.report.wall_ns),
      snapshot.sessions_active, snapshot.server.max_clients, snapshot.sessions_started,
      snapshot.sessions_refused, sign);
}

std::string show(const CountersSnapshot& snapshot, StatSource::Scope scope, OutputForm form) {
  if (form == OutputForm::kJson) {
    JsonObject json = report_object(snapshot.report);
    json.add("live", live_json(snapshot, scope));
    return json.line();
  }
  std::string text;
  if (scope == StatSource::Scope::kOwnSession) {
    text = "asked over a session of its own: these are that session's figures only\n";
  } else {
    text = describe_state(snapshot) + "\n";
    if (!snapshot.settled) {
      text +=
          "it stands still while a session begins or ends: the sums may hold that one twice or not "
          "at all\n";
    }
  }
  return text + report_table(snapshot.report);
}

}  // namespace airlock
