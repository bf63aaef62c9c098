#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/status.h"
#include "proto/path.h"
#include "proto/pool.h"

namespace airlock {

/// The header of a trial: of the messages by which a session finds its path limit, before its first
/// request. It has one tensor, and so has its reply, with the same header; or it ends the trials
/// and has none. Drawn in docs/PROTOCOL.md.
struct Trial {
  // Of the tensor; 0: the trials are over, and nothing answers.
  std::uint64_t bytes = 0;
  // The tensor takes the ring; else what it would take if there were none: the pool where it has a
  // place there, or ZeroMQ.
  bool by_ring = false;
  PoolPlace place{};
  PoolPlace reply_place{};
  // Where they are over: what was found, at least 1.
  std::uint32_t path_limit = 0;
  bool operator==(const Trial&) const = default;
};

std::vector<std::byte> encode(const Trial& trial);
/// kProtocolError for anything that is not one of fewer than `most` bytes or a limit of at most
/// that.
Result<Trial> decode_trial(std::span<const std::byte> header, std::size_t most);

/// Of a trial's message, or of its reply. Neither has anything behind its header.
Result<MessagePlan> plan_trial(const PathPolicy& policy, const Trial& trial);
Result<MessagePlan> plan_trial_reply(const PathPolicy& policy, const Trial& trial);

}  // namespace airlock
