#pragma once

#include <string_view>

#include "base/status.h"
#include "runtime/stats/report.h"

namespace airlock {

/// What the `stats` op answers, from a server that nobody vouches for: paths and ops of one
/// session. kProtocolError where it is not the JSON of docs/STATS.md.
Result<SideReport> parse_own_session(std::string_view json);

}  // namespace airlock
