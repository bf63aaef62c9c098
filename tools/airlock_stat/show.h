#pragma once

#include <string>

#include "tools/airlock_stat/options.h"
#include "tools/airlock_stat/source.h"

namespace airlock {

/// How the server is: what is said in words and in JSON.
enum class ServerState : std::uint8_t {
  kServing,
  // It lives, and its control thread gave no sign for over a second.
  kSilent,
  // Nobody holds its file: it was killed.
  kEnded,
};
constexpr std::string_view name_of(ServerState state) {
  switch (state) {
    case ServerState::kServing:
      return "serving";
    case ServerState::kSilent:
      return "silent";
    case ServerState::kEnded:
      return "ended";
  }
  return {};
}
ServerState state_of(const CountersSnapshot& snapshot);

/// One line for a person: process, time up, sessions and the last sign of life.
std::string describe_state(const CountersSnapshot& snapshot);
/// The server's own table or JSON with what describe_state() says: lines above the table, a member
/// "live" in the JSON.
std::string show(const CountersSnapshot& snapshot, StatSource::Scope scope, StatFormat format);

}  // namespace airlock
