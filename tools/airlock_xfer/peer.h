#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>

#include "proto/handshake.h"
#include "runtime/channel/channel.h"
#include "tools/airlock_xfer/control.h"
#include "tools/airlock_xfer/cpu_pin.h"

namespace airlock::xfer {

/// For tests alone; called in the process that writes a tensor for the peer to echo it (stream: for
/// the parent to send it), after the bytes were written and before they leave. `message` counts
/// from 0 over the whole run.
struct Hooks {
  std::function<void(std::uint64_t message, std::span<std::byte> tensor)> on_write;
};

/// What both processes know since before the fork.
struct PairSetup {
  std::array<bool, kChannelKinds> wanted{};      // by ChannelKind
  std::array<Welcome, kChannelKinds> welcome{};  // epoch, token, ring and geometry are set
  std::string directory;                         // private; of the sockets
  std::chrono::milliseconds timeout{10000};
  std::optional<CpuPair> cpus;
  Hooks hooks;
};

/// The first bytes of each message's header.
struct MessageHead {
  std::uint32_t kind = 0;
  std::uint32_t cpu = 0;      // where the sender runs
  std::uint64_t message = 0;  // its number in the pass
};
inline constexpr std::uint32_t kDataMessage = 1;
inline constexpr std::uint32_t kLastMessage = 2;  // without a tensor: the pass is over

std::array<std::byte, sizeof(MessageHead)> encode_head(const MessageHead& head);
/// The Accept of either side: a data message has one tensor of `tensor_bytes`, or none where that
/// is 0; the last message has none.
Accept accept_exactly(std::size_t tensor_bytes);
/// kProtocolError for a header of another size or kind.
Result<MessageHead> decode_head(std::span<const std::byte> header);

/// The CPU that the calling thread runs on now.
std::uint32_t current_cpu();

/// How long a wait for a message of `bytes` may take.
Deadline message_deadline(std::chrono::milliseconds timeout, std::size_t bytes);

/// Removes the sockets' directory and the segments, where they are still there.
void remove_files(const PairSetup& setup);

/// The forked process: attaches, serves passes until kBye or the parent's end; the exit code.
int run_peer(ControlSocket control, const PairSetup& setup, int parent_pid);

}  // namespace airlock::xfer
