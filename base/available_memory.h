#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace airlock {

/// Bytes that this process can still take: the least of what the machine has (MemAvailable) and of
/// what each control group leaves. Others take memory too: good for advice and for a refusal in
/// time, never a promise. Nullopt where the system does not say. `root` as read_cgroup_limits() has
/// it.
std::optional<std::uint64_t> memory_available_bytes(const std::string& root = {});

}  // namespace airlock
