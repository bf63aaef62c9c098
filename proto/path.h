#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "base/enum.h"
#include "base/status.h"
#include "proto/limits.h"

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

  /// Whether a tensor of so many bytes may take `path`, as far as its message has room there.
  constexpr bool carries(Path path, std::size_t bytes) const {
    switch (path) {
      case Path::kRing:
        return has_ring && bytes < limit_bytes;
      case Path::kZmq:
        return true;
    }
    return false;
  }
  /// Of every message's header: the ring where there is one.
  constexpr Path header_path() const { return has_ring ? Path::kRing : Path::kZmq; }
};

/// What follows from the sizes of one message's tensors: a plain value that each side makes once
/// and that travels with the message.
struct MessagePlan {
  struct Tensor {
    std::size_t bytes = 0;
    Path path = Path::kZmq;
    bool operator==(const Tensor&) const = default;
  };

  std::span<const Tensor> tensors() const { return {planned.data(), tensor_count}; }
  /// Whether its header or a tensor takes `path`.
  bool uses(Path path) const {
    return header_path == path ||
           std::ranges::any_of(tensors(), [path](const Tensor& t) { return t.path == path; });
  }
  /// Of the paths that it uses.
  Path slowest() const {
    return *std::find_if(kPaths.rbegin(), kPaths.rend(), [this](Path p) { return uses(p); });
  }
  bool operator==(const MessagePlan&) const = default;

  std::array<Tensor, limits::kMaxTensorsPerMessage> planned{};
  std::size_t tensor_count = 0;
  Path header_path = Path::kZmq;
  /// One for each ring tensor, or one for the header alone; 0 without a ring.
  std::size_t ring_slots = 0;
};

/// Pure: both sides call it with the same sizes and need not tell each other. In order, a tensor
/// goes by the ring if it is strictly under the limit and the message then needs at most half the
/// slots; everything else goes by ZeroMQ. kInvalidInput where the sizes are over those of limits.h.
Result<MessagePlan> plan_message(const PathPolicy& policy,
                                 std::span<const std::size_t> tensor_bytes);

}  // namespace airlock
