#pragma once

#include <functional>
#include <memory>
#include <optional>

#include "base/status.h"
#include "gpu_server/group/launch.h"
#include "gpu_server/group/leader.h"
#include "gpu_server/load_compute.h"
#include "gpu_server/options.h"
#include "gpu_server/session.h"

namespace airlock {

/// Rank 0's part: starts MPI and meets the other ranks. A rank that was asked to end (SIGTERM) has
/// this process asked too. kDevice: the module or a rank is lacking; kVersionMismatch, kMismatch:
/// one is of another release, or was told to serve something else.
/// `lost`: as GroupLeader::Ground has it.
Result<std::unique_ptr<GroupLeader>> start_group(
    const ServerOptions& options, std::function<std::optional<int>(const Status&)> lost);

/// Loads this rank's share while the others load theirs, and gives the whole as one model.
Result<ServedModel> load_group_model(const ServerOptions& options, const DeviceChoice& choice,
                                     GroupLeader& leader);

/// Any other rank, once it has met the others.
struct GroupWorker {
  std::shared_ptr<const ModelSource> source;
  std::unique_ptr<GroupLink> link;
};
/// Starts MPI and meets the others, which takes as long as the launcher does, then opens the model.
/// As start_group().
Result<GroupWorker> open_group_worker(const ServerOptions& options, const GroupLaunch& launch);
/// Serves rank 0 to the end, and ends the process with the exit code of what ended that. Comes back
/// only where it cannot begin.
Status run_group_worker(const ServerOptions& options, const GroupLaunch& launch,
                        const GroupWorker& worker, int signal_fd);

}  // namespace airlock
