#include "gpu_server/group/launch.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <initializer_list>
#include <string_view>

namespace airlock {

namespace {

/// The first of these variables that is a number.
std::optional<std::size_t> number_in(std::initializer_list<const char*> names) {
  for (const char* name : names) {
    const char* text = std::getenv(name);
    if (text == nullptr) continue;
    const std::string_view digits = text;
    std::size_t number = 0;
    const auto [rest, error] =
        std::from_chars(digits.data(), digits.data() + digits.size(), number);
    if (error == std::errc() && rest == digits.data() + digits.size() && number <= 65536)
      return number;
  }
  return std::nullopt;
}

/// Of a process, as it may run on; 0 is this one.
int cpus_of(pid_t process) {
  cpu_set_t cpus;
  return ::sched_getaffinity(process, sizeof(cpus), &cpus) == 0 ? CPU_COUNT(&cpus) : 0;
}

}  // namespace

std::optional<GroupLaunch> find_launch() {
  const auto rank = number_in({"OMPI_COMM_WORLD_RANK", "PMIX_RANK"});
  const auto ranks = number_in({"OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"});
  if (!rank || ranks.value_or(1) < 2 || *rank >= *ranks) return std::nullopt;
  GroupLaunch launch{.rank = *rank, .ranks = *ranks};
  launch.local_rank = number_in({"OMPI_COMM_WORLD_LOCAL_RANK", "SLURM_LOCALID"}).value_or(0);
  launch.local_ranks = std::max<std::size_t>(
      number_in({"OMPI_COMM_WORLD_LOCAL_SIZE", "SLURM_NTASKS_PER_NODE"}).value_or(1), 1);
  return launch;
}

std::size_t threads_of_a_rank(std::size_t usable, const std::optional<GroupLaunch>& launch) {
  if (!launch) return usable;
  // Fewer CPUs than whoever started it: the launcher has given it its own.
  if (cpus_of(0) < cpus_of(::getppid())) return usable;
  return std::max<std::size_t>(usable / launch->local_ranks, 1);
}

}  // namespace airlock
