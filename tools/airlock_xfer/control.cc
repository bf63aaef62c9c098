#include "tools/airlock_xfer/control.h"

#include <poll.h>
#include <sys/signalfd.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>
#include <type_traits>
#include <utility>

#include "base/file.h"

namespace airlock::xfer {
namespace {

static_assert(std::is_trivially_copyable_v<ControlPacket>);
constexpr std::chrono::milliseconds kSlice{50};

Status ended() { return {StatusCode::kUnavailable, "the other process ended"}; }

Status socket_error(std::string_view doing) {
  return errno == EPIPE || errno == ECONNRESET ? ended() : os_error(doing, errno);
}

}  // namespace

Status send_packet(int control_fd, const ControlPacket& packet) {
  // At most two packets are ever under way, so there is room for them.
  while (::send(control_fd, &packet, sizeof(packet), MSG_NOSIGNAL | MSG_DONTWAIT) < 0) {
    if (errno != EINTR) return socket_error("send on the control socket");
  }
  return {};
}

Result<ControlPacket> receive_packet(int control_fd, Deadline deadline, const PeerWatch& watch) {
  for (;;) {
    ControlPacket packet;
    const ssize_t got = ::recv(control_fd, &packet, sizeof(packet), MSG_DONTWAIT);
    if (got == 0) return ended();
    if (got == static_cast<ssize_t>(sizeof(packet))) {
      packet.endpoint.back() = '\0';
      return packet;
    }
    if (got > 0) return Status(StatusCode::kProtocolError, "a short packet on the control socket");
    if (errno != EAGAIN && errno != EINTR) return socket_error("receive on the control socket");
    RETURN_IF_ERROR(watch.check());
    if (deadline.expired()) {
      return Status(StatusCode::kDeadlineExceeded, "no word on the control socket");
    }
    const auto slice =
        std::chrono::ceil<std::chrono::milliseconds>(deadline.slice(kSlice).remaining());
    pollfd waiting{control_fd, POLLIN, 0};
    (void)::poll(&waiting, 1, static_cast<int>(slice.count()));  // either way: look again
  }
}

LifeWatch::LifeWatch(int control_fd, int signal_fd) {
  if (Status status = stop_.check(); !status.ok()) {
    end(std::move(status));
  } else {
    thread_ = std::thread([this, control_fd, signal_fd] { watch(control_fd, signal_fd); });
  }
}

LifeWatch::~LifeWatch() {
  stop_.set();
  if (thread_.joinable()) thread_.join();
}

void LifeWatch::watch(int control_fd, int signal_fd) {
  for (;;) {
    // A negative descriptor is passed over. POLLRDHUP alone: what can be read there is the main
    // thread's.
    pollfd waiting[] = {
        {stop_.fd(), POLLIN, 0}, {signal_fd, POLLIN, 0}, {control_fd, POLLRDHUP, 0}};
    if (::poll(waiting, 3, -1) < 0 && errno != EINTR) return end(os_error("poll", errno));
    if (waiting[0].revents != 0) return;
    signalfd_siginfo info{};
    if (waiting[1].revents != 0 && ::read(signal_fd, &info, sizeof(info)) == sizeof(info)) {
      return end({StatusCode::kCancelled, "stopped by signal {} ({})", info.ssi_signo,
                  ::strsignal(static_cast<int>(info.ssi_signo))});
    }
    if (waiting[2].revents != 0) return end(ended());
  }
}

}  // namespace airlock::xfer
