#include "tools/airlock_xfer/control.h"

#include <poll.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>
#include <type_traits>

namespace airlock::xfer {
namespace {

static_assert(std::is_trivially_copyable_v<ControlPacket>);
constexpr std::chrono::milliseconds kSlice{50};

Status ended() { return {StatusCode::kUnavailable, "the other process ended"}; }

Status socket_error(std::string_view doing) {
  if (errno == EPIPE || errno == ECONNRESET) return ended();
  return {StatusCode::kInternal, "control socket: {}: {}", doing, std::strerror(errno)};
}

}  // namespace

Result<std::pair<ControlSocket, ControlSocket>> ControlSocket::make_pair() {
  int fds[2] = {-1, -1};
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds) != 0) {
    return socket_error("socketpair");
  }
  return std::pair(ControlSocket(UniqueFd(fds[0])), ControlSocket(UniqueFd(fds[1])));
}

Status ControlSocket::send(const ControlPacket& packet) const {
  // At most two packets are ever under way, so there is room for them.
  ssize_t sent = 0;
  do {
    sent = ::send(fd_.get(), &packet, sizeof(packet), MSG_NOSIGNAL | MSG_DONTWAIT);
  } while (sent < 0 && errno == EINTR);
  if (sent == static_cast<ssize_t>(sizeof(packet))) return {};
  return socket_error("send");
}

Result<ControlPacket> ControlSocket::receive_any(Deadline deadline, const PeerWatch& watch) const {
  for (;;) {
    ControlPacket packet;
    const ssize_t got = ::recv(fd_.get(), &packet, sizeof(packet), MSG_DONTWAIT);
    if (got == 0) return ended();
    if (got == static_cast<ssize_t>(sizeof(packet))) {
      packet.endpoint.back() = '\0';
      return packet;
    }
    if (got > 0) return Status(StatusCode::kProtocolError, "a short packet on the control socket");
    if (errno != EAGAIN && errno != EINTR) return socket_error("receive");
    RETURN_IF_ERROR(watch.check());
    if (deadline.expired()) {
      return Status(StatusCode::kDeadlineExceeded, "no word on the control socket");
    }
    const auto slice =
        std::chrono::ceil<std::chrono::milliseconds>(deadline.slice(kSlice).remaining());
    pollfd waiting{fd_.get(), POLLIN, 0};
    (void)::poll(&waiting, 1, static_cast<int>(slice.count()));  // either way: look again
  }
}

Result<ControlPacket> ControlSocket::receive(ControlKind expected, Deadline deadline,
                                             const PeerWatch& watch) const {
  ASSIGN_OR_RETURN(const ControlPacket packet, receive_any(deadline, watch));
  if (packet.kind == expected) return packet;
  return Status(StatusCode::kProtocolError, "control packet of kind {}, expected {}",
                static_cast<std::uint32_t>(packet.kind), static_cast<std::uint32_t>(expected));
}

}  // namespace airlock::xfer
