#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <vector>

#include "base/status.h"
#include "base/unique_fd.h"

namespace airlock {

/// What one packet carries beside its bytes at most.
inline constexpr std::size_t kMaxPassedDescriptors = 3;

/// Sends `bytes`, which are not empty, as one packet of a Unix socket that keeps packets apart
/// (SOCK_SEQPACKET), with copies of `descriptors` beside it. Never waits. kBusy: no room, nothing
/// was sent; kUnavailable: the peer closed the socket.
Status send_packet(int socket_fd, std::span<const std::byte> bytes,
                   std::span<const int> descriptors = {});

/// The next packet's size, its bytes in `into`; nullopt: none has come. Never waits. Descriptors
/// beside it go to `descriptors`; where that is null, none may come, and the kernel drops what the
/// peer sent. kUnavailable: the peer closed the socket, or sent an empty packet, which looks the
/// same; kProtocolError: the packet is larger than `into`, or has descriptors that nobody expects.
Result<std::optional<std::size_t>> receive_packet(int socket_fd, std::span<std::byte> into,
                                                  std::vector<UniqueFd>* descriptors);

}  // namespace airlock
