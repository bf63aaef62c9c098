#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "base/status.h"
#include "runtime/compute.h"
#include "tee_runner/options.h"

namespace airlock {

class CommandOptions;

void declare_tile(const CommandOptions& command, std::int64_t& tile);

/// The driver's tile: what was asked for. Of kAutoTile it stays that where the server computes
/// while this process does: on a GPU, beyond this machine, or where each thread of both has one of
/// the `cpus` that this process may use; else 0. Tiles would only get in each other's way there. 0
/// too in a private mode, where the rows of an op say more of a prompt's length than they have to.
/// `server` is its word, by which nothing but the pace is decided.
std::int64_t tile_for(const ModelOptions& options, const BackendInfo& server, std::size_t cpus);

/// "auto", "off" or the number.
std::string tile_text(std::int64_t tile);

/// kUsage: a tile in a private mode.
Status check_tile(const ModelOptions& options);

}  // namespace airlock
