#pragma once

#include <array>
#include <cstdint>
#include <utility>

#include "base/deadline.h"
#include "base/status.h"
#include "base/unique_fd.h"
#include "proto/limits.h"
#include "runtime/channel/channel.h"

namespace airlock::xfer {

/// Which of the two channels of a pair: with rings and a socket, or with a socket alone.
enum class ChannelKind : std::uint32_t { kRingAndSocket = 0, kSocket = 1 };
inline constexpr std::size_t kChannelKinds = 2;

enum class ControlKind : std::uint32_t {
  kAttach = 1,    // to the peer: `endpoint` is where `channel` is
  kAttached = 2,  // from the peer
  kPass = 3,      // to the peer: serve messages of `bytes` on `channel` until the last one
  kPassDone = 4,  // from the peer: `wrong_bytes`
  kBye = 5,       // to the peer: end
};

/// One packet between the two processes, which are the same program: no byte order, no versions.
struct ControlPacket {
  ControlKind kind = ControlKind::kBye;
  ChannelKind channel = ChannelKind::kRingAndSocket;
  std::uint64_t bytes = 0;
  std::uint64_t row = 0;         // seeds the pattern
  std::uint32_t is_echo = 0;     // else a small reply acknowledges each message
  std::uint32_t peer_check = 0;  // the peer checks what it gets before it replies
  std::uint64_t wrong_bytes = 0;
  std::array<char, limits::kMaxDataEndpointBytes + 1> endpoint{};  // NUL-terminated
};

/// One end of the socket pair that was made before the fork. It carries orders, never payload.
/// One thread.
class ControlSocket {
 public:
  ControlSocket() = default;
  explicit ControlSocket(UniqueFd fd) : fd_(std::move(fd)) {}
  static Result<std::pair<ControlSocket, ControlSocket>> make_pair();

  Status send(const ControlPacket& packet) const;
  /// kUnavailable: the other process ended. kDeadlineExceeded; or what `watch` says, asked every
  /// 50 ms.
  Result<ControlPacket> receive(ControlKind expected, Deadline deadline,
                                const PeerWatch& watch) const;
  /// The same for the peer, which does not know what comes.
  Result<ControlPacket> receive_any(Deadline deadline, const PeerWatch& watch) const;
  int fd() const { return fd_.get(); }
  void close() { fd_.reset(); }

 private:
  UniqueFd fd_;
};

}  // namespace airlock::xfer
