#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/status.h"

namespace airlock {

/// Whether there is room now, for a program's start: better said then than to the first peer.
/// kResourceExhausted, with what is needed, what there is, and what to do; the last of it is
/// `without`, the option with which no segment is needed.

/// `count` new segments of `segment_bytes` each below /dev/shm: a file is made there, as a
/// segment's would be, and removed.
Status check_segment_room(std::size_t segment_bytes, std::size_t count, std::string_view without);
/// What that says of how to give /dev/shm more.
inline constexpr std::string_view kHowToEnlargeShm =
    "mount -o remount,size=BYTES /dev/shm, --shm-size of podman and docker, in Kubernetes the "
    "sizeLimit of an emptyDir of medium Memory that is mounted there";
/// Bytes that are free there; nullopt: it has no limit of its own, or cannot be looked at.
std::optional<std::uint64_t> free_shm_bytes();

/// The same of sealed segments, which take memory: the machine's, and what control groups allow.
Status check_sealed_room(std::size_t segment_bytes, std::size_t count, std::string_view without);

/// Once there is room for one session: whether there is for all that may be, whose segments take
/// `need` bytes. A line for the log, with both figures and the settings to change; empty: there is.
/// `have`: nullopt: nobody knows.
std::string segment_room_advice(std::uint64_t need, std::optional<std::uint64_t> have,
                                std::size_t max_clients);
std::string sealed_room_advice(std::uint64_t need, std::optional<std::uint64_t> have,
                               std::size_t max_clients);

}  // namespace airlock
