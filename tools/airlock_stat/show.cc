#include "tools/airlock_stat/show.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

namespace airlock {
namespace {

// Signs come every 200 ms.
constexpr std::uint64_t kSilentNs = 1'000'000'000;

double seconds(std::uint64_t ns) { return static_cast<double>(ns) / 1e9; }

const char* state_name(ServerState state) {
  switch (state) {
    case ServerState::kServing:
      return "serving";
    case ServerState::kSilent:
      return "silent";
    case ServerState::kEnded:
      return "ended";
  }
  return "unknown";
}

std::string json_line(const CountersSnapshot& snapshot, StatSource::Scope scope) {
  using Json = nlohmann::ordered_json;
  Json json = Json::parse(report_json(snapshot.report));
  if (scope == StatSource::Scope::kOwnSession) {
    json["live"] = {{"scope", "own session"}};
  } else {
    json["live"] = {{"scope", "server"},
                    {"state", state_name(state_of(snapshot))},
                    {"pid", snapshot.pid},
                    {"start_unix_ns", snapshot.start_unix_ns},
                    {"heartbeat_age_ns", snapshot.heartbeat_age_ns},
                    {"sessions_active", snapshot.sessions_active},
                    {"sessions_started", snapshot.sessions_started},
                    {"sessions_refused", snapshot.sessions_refused},
                    {"max_clients", snapshot.max_clients},
                    {"settled", snapshot.settled}};
  }
  return json.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace

ServerState state_of(const CountersSnapshot& snapshot) {
  if (!snapshot.alive) return ServerState::kEnded;
  return snapshot.heartbeat_age_ns > kSilentNs ? ServerState::kSilent : ServerState::kServing;
}

std::string describe_state(const CountersSnapshot& snapshot) {
  const std::string sign =
      fmt::format("last sign {:.1f} s ago", seconds(snapshot.heartbeat_age_ns));
  std::string state = sign;
  if (state_of(snapshot) == ServerState::kSilent) state = "hangs or was stopped: " + sign;
  if (state_of(snapshot) == ServerState::kEnded)
    state = "ended without cleaning up: " + sign + "; the next server here replaces its file";
  return fmt::format(
      "gpu_server pid {} at {}, up {:.1f} s; {} of {} sessions under way, {} begun, {} refused; {}",
      snapshot.pid, snapshot.endpoint, seconds(snapshot.report.wall_ns), snapshot.sessions_active,
      snapshot.max_clients, snapshot.sessions_started, snapshot.sessions_refused, state);
}

std::string show(const CountersSnapshot& snapshot, StatSource::Scope scope, OutputForm form) {
  if (form == OutputForm::kJson) return json_line(snapshot, scope);
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
