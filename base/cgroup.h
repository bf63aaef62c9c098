#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace airlock {

/// What control groups leave this process. Nullopt: no limit, or none that can be read.
struct CgroupLimits {
  // CPUs' worth of time, such as 1.5.
  std::optional<double> cpus;
  // Bytes until a limit is met; file pages that the kernel would drop first count as free.
  std::optional<std::uint64_t> memory_left_bytes;
  bool operator==(const CgroupLimits&) const = default;
};

/// The least over the process's group and each ancestor of it, in every hierarchy, v1 and v2: a
/// group has what its ancestors leave it, whatever it says itself. `root` is put before every path
/// that is read (/proc/self and the mount points that it names).
CgroupLimits read_cgroup_limits(const std::string& root = {});

}  // namespace airlock
