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
#include "proto/pool.h"

namespace airlock {

/// How a tensor crosses, the fastest first. Never sent: both sides derive it from the sizes, and
/// from the places in the pool that the request names.
enum class Path : std::uint8_t { kRing = 0, kPool = 1, kZmq = 2 };

/// As statistics, traces and commands call it.
constexpr std::string_view name_of(Path path) {
  switch (path) {
    case Path::kRing:
      return "ring";
    case Path::kPool:
      return "pool";
    case Path::kZmq:
      return "zmq";
  }
  return {};
}
inline constexpr auto kPaths = kValuesOf<Path>;

/// What decides a tensor's way: agreed before the first request, private copies from then on.
struct PathPolicy {
  bool has_ring = false;
  std::size_t limit_bytes =
      0;  // a tensor of strictly fewer bytes may go by the ring; at most a slot's
  std::size_t slot_count = 0;
  bool has_pool = false;  // both sides use one; where it has no room a tensor goes by ZeroMQ
  // A tensor of strictly fewer bytes, which the header's path carries, rides behind its message's
  // header, 0: none does; while there is room for it, at most limits::kMaxInlineBytes.
  std::size_t inline_bytes = 0;
  std::size_t inline_room = 0;

  /// Whether a tensor of so many bytes may take `path`, as far as its message has room there.
  constexpr bool carries(Path path, std::size_t bytes) const {
    switch (path) {
      case Path::kRing:
        return has_ring && bytes < limit_bytes;
      case Path::kPool:
        return has_pool && bytes >= limits::kMinPoolTensorBytes;
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
    Path path{};
    PoolPlace place{};  // of kPool
    // It rides behind the header, on the header's path; so many bytes behind where that begins.
    bool is_inline = false;
    std::size_t inline_at = 0;  // a multiple of limits::kInlineAlignment
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
  Path header_path{};
  /// One for each ring tensor, but for those that ride behind the header: they share the first
  /// with it. One for the header alone; 0 without a ring.
  std::size_t ring_slots = 0;
  bool has_inline = false;
  /// What rides behind the header, gaps between its tensors included.
  std::size_t inline_bytes = 0;
  /// Tensors that the pool has no room for.
  std::size_t fallbacks = 0;
};

/// Pure: both sides call it with the same sizes and need not tell each other. First, in order,
/// those are found that ride behind the header. Of the others, in order, a tensor goes by the ring
/// if it is strictly under the limit and the message then needs at most half the slots; else by the
/// pool, where there is one and it has at least limits::kMinPoolTensorBytes; everything else goes
/// by ZeroMQ. kInvalidInput where the sizes are over those of limits.h.
Result<MessagePlan> plan_message(const PathPolicy& policy,
                                 std::span<const std::size_t> tensor_bytes);

/// Gives the plan's tensors their places in the pool, one for each tensor; without any, nowhere.
/// One that has none goes by ZeroMQ instead. kProtocolError: a place for a tensor that does not
/// take the pool, or too few.
Status place_in_pool(MessagePlan& plan, std::span<const PoolPlace> places);

/// Whether a tensor of the one and a tensor of the other share memory of the pool.
bool meet_in_pool(const MessagePlan& one, const MessagePlan& other);

/// Both at once, with places for all of the tensors; without any, none lies in a pool.
Result<MessagePlan> plan_in_pool(const PathPolicy& policy,
                                 std::span<const std::size_t> tensor_bytes,
                                 std::span<const PoolPlace> places);

}  // namespace airlock
