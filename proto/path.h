#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "base/enum.h"

namespace airlock {

/// How a tensor crosses, the fastest first. Never sent: both sides derive it from the sizes.
enum class Path : std::uint8_t { kRing = 0, kZmq = 1 };

/// As statistics, traces and commands call it.
constexpr std::string_view name_of(Path path) {
  switch (path) {
    case Path::kRing:
      return "ring";
    case Path::kZmq:
      return "zmq";
  }
  return {};
}
inline constexpr auto kPaths = kValuesOf<Path>;

/// What decides a tensor's way: agreed once in the handshake, private copies from then on.
struct PathPolicy {
  bool has_ring = false;
  std::size_t limit_bytes = 0;  // a tensor of strictly fewer bytes may go by the ring
  std::size_t slot_count = 0;
};

/// The path of each tensor of one message. Pure: both sides call it with the same sizes and need
/// not tell each other. In order, a tensor goes by the ring if it is strictly under the limit and
/// the message then needs at most half the slots (one slot a ring tensor, at least one for the
/// header); everything else goes by ZeroMQ.
std::vector<Path> choose_paths(const PathPolicy& policy, std::span<const std::size_t> tensor_bytes);
/// The path of the message's header: the ring where there is one.
Path header_path(const PathPolicy& policy);
/// Ring slots that the message takes: max(1, ring tensors) with a ring, 0 without.
std::size_t slots_needed(const PathPolicy& policy, std::span<const Path> paths);

}  // namespace airlock
