#pragma once

#include <cstdint>
#include <string>

#include "base/status.h"
#include "runtime/compute.h"
#include "tee_runner/options.h"

namespace airlock {

class CommandOptions;

void declare_tile(const CommandOptions& command, std::int64_t& tile);

/// The driver's tile: what was asked for. Of kAutoTile it stays that where the server says that it
/// has a GPU (its word, by which nothing but the pace is decided); else 0: on some CPUs a row's
/// bits depend on how many are computed with it (docs/adr/0012), and would so on where the server
/// is and on how many threads there are. 0 in a private mode, where the rows of an op say more of a
/// prompt's length than they have to.
std::int64_t tile_for(const ModelOptions& options, const BackendInfo& server);

/// "auto", "off" or the number.
std::string tile_text(std::int64_t tile);

/// kUsage: a tile in a private mode.
Status check_tile(const ModelOptions& options);

}  // namespace airlock
