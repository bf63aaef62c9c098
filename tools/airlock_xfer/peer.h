#pragma once

#include <sched.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>

#include "base/unique_fd.h"
#include "proto/handshake.h"
#include "runtime/channel/channel.h"
#include "tools/airlock_xfer/options.h"

namespace airlock::xfer {

/// For tests alone; called in the process that writes a tensor for the peer to echo it (stream: for
/// the parent to send it), after the bytes were written and before they leave. `message` counts
/// from 0 over the whole run.
struct Hooks {
  std::function<void(std::uint64_t message, std::span<std::byte> tensor)> on_write;
};

/// What both processes know since before the fork.
struct PairSetup {
  const Options& options;
  Hooks hooks;
  // The sessions that the paths need, each under the fastest path that it has: all but the endpoint
  // of its data socket.
  PerValue<Path, std::optional<Welcome>> welcome{};
  // Private; of the sockets.
  std::string directory{};
  std::uint64_t written = 0;

  /// To be called by whoever has written a tensor that Hooks speaks of.
  void call_hook(std::span<std::byte> tensor) {
    if (hooks.on_write) hooks.on_write(written++, tensor);
  }
};

/// The first bytes of each message's header.
struct MessageHead {
  std::uint32_t kind = 0;
  // Where the sender runs.
  std::uint32_t cpu = 0;
  // Its number in the pass.
  std::uint64_t message = 0;
  // Where in the pool its tensor lies, and its reply's is to lie; the parent chooses both.
  PoolPlace place{};
  PoolPlace reply_place{};
};
inline constexpr std::uint32_t kDataMessage = 1;
/// Without a tensor: the pass is over.
inline constexpr std::uint32_t kLastMessage = 2;

/// `head` with the CPU, of a message that leaves now.
std::array<std::byte, sizeof(MessageHead)> encode_head(MessageHead head);
/// kProtocolError for a header of another size or kind.
Result<MessageHead> decode_head(std::span<const std::byte> header);
/// How one tensor of `bytes`, or none where that is 0, travels with this place in the pool.
Result<MessagePlan> plan_tensor(const PathPolicy& policy, std::size_t bytes, PoolPlace place);
/// What either side accepts: a data message has one tensor of `tensor_bytes`, or none where that is
/// 0; the last message has none. The policy outlives it.
AcceptPlan accept_exactly(const PathPolicy& policy, std::size_t tensor_bytes);

/// The CPU that the calling thread runs on now.
std::uint32_t current_cpu();
/// Keeps the calling thread on one CPU; threads made before stay as they are. Gives where it could
/// run before; kInvalidInput where the system does not allow it.
Result<cpu_set_t> pin_to_cpu(int cpu);

/// How long a wait for a message of `bytes` may take.
Deadline message_deadline(const Options& options, std::size_t bytes);

/// Removes the sockets' directory, where it is still there.
void remove_files(const PairSetup& setup);

/// The forked process: obeys the orders on `control` until kBye or the parent's end; the exit code.
int run_peer(UniqueFd control, PairSetup& setup, int parent_pid);

}  // namespace airlock::xfer
