#pragma once

#include <cstddef>
#include <optional>

namespace airlock {

/// How a launcher has started this process among others, as the environment says.
struct GroupLaunch {
  std::size_t rank = 0;
  std::size_t ranks = 1;
  // Among those of this machine.
  std::size_t local_rank = 0;
  std::size_t local_ranks = 1;
};

/// Of mpirun (Open MPI) and of srun with PMIx; nullopt: this process was started alone, or as the
/// only one.
std::optional<GroupLaunch> find_launch();

/// How many compute threads a rank has by default, where a process alone would have `usable`: ranks
/// of one machine share it, unless the launcher has given each its CPUs.
std::size_t threads_of_a_rank(std::size_t usable, const std::optional<GroupLaunch>& launch);

}  // namespace airlock
