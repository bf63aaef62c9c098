#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <thread>
#include <vector>

#include "base/deadline.h"
#include "base/status.h"
#include "base/unique_fd.h"
#include "base/wake_event.h"
#include "proto/limits.h"
#include "proto/path.h"
#include "runtime/rpc/peer_life.h"

namespace airlock::xfer {

/// What the parent tells its peer to do.
enum class Order : std::uint32_t {
  // Attach to `session`, which is at `endpoint`.
  kAttach = 1,
  // Serve messages of `bytes` in `session` until the last one.
  kPass = 2,
  // End. It alone is not answered.
  kBye = 3,
};

/// One packet between the two processes, which are the same program: no byte order, no versions.
/// The answer to an order is its own packet, once it was carried out.
struct ControlPacket {
  Order order = Order::kBye;
  // The fastest path that the session has.
  Path session = kPaths.front();
  // Whether the peer checks what it gets before it replies.
  bool peer_check = false;
  std::uint64_t bytes = 0;
  // Seeds the pattern.
  std::uint64_t row = 0;
  // In the answer to kPass: what the peer's check found.
  std::uint64_t wrong_bytes = 0;
  // In kAttach: what the session has of the pool; 0 bytes: nothing.
  PoolExtent leased{};
  // NUL-terminated.
  std::array<char, limits::kMaxDataEndpointBytes + 1> endpoint{};
};

/// `control_fd` is one end of the socket pair (SOCK_SEQPACKET) that was made before the fork. It
/// carries orders and answers, and beside kAttach the segments' and the pool's descriptors, never
/// payload. kUnavailable: the other process ended.
Status send_order(int control_fd, const ControlPacket& packet,
                  std::span<const UniqueFd> descriptors = {});
/// The next packet, and what came beside it; kDeadlineExceeded, or what `watch` says, which is
/// asked every 50 ms.
struct ReceivedOrder {
  ControlPacket packet;
  std::vector<UniqueFd> descriptors;
};
Result<ReceivedOrder> receive_order(int control_fd, Deadline deadline, const PeerWatch& watch);

/// A life that ends when the other process does (its end of the control socket closes) or when a
/// signal comes: a thread sleeps until then. The channels ask it in each wait.
class LifeWatch : public PeerLife {
 public:
  /// `signal_fd` is a signalfd, or -1. Nothing but signals is read from the descriptors, which
  /// outlive this. Where it cannot watch, the life is over from the start.
  LifeWatch(int control_fd, int signal_fd);
  ~LifeWatch();

 private:
  void watch(int control_fd, int signal_fd);

  WakeEvent stop_;
  std::thread thread_;
};

}  // namespace airlock::xfer
