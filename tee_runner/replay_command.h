#pragma once

#include "base/status.h"

namespace airlock {

/// `tee_runner replay`: parses, connects, replays, prints. argv[1] is "replay".
Status run_replay_command(int argc, const char* const* argv);

}  // namespace airlock
