#include "tools/airlock_xfer/control.h"

#include <poll.h>
#include <sys/signalfd.h>

#include <cerrno>
#include <cstring>
#include <type_traits>
#include <utility>

#include "base/file.h"
#include "base/packet.h"
#include "base/thread.h"

namespace airlock::xfer {
namespace {

static_assert(std::is_trivially_copyable_v<ControlPacket>);
constexpr std::chrono::milliseconds kSlice{50};

Status ended() { return {StatusCode::kUnavailable, "the other process ended"}; }

}  // namespace

Status send_order(int control_fd, const ControlPacket& packet,
                  std::span<const UniqueFd> descriptors) {
  std::vector<int> fds;
  for (const UniqueFd& fd : descriptors) fds.push_back(fd.get());
  // At most two packets are ever under way, so there is room for them.
  const Status sent = send_packet(control_fd, std::as_bytes(std::span(&packet, 1)), fds);
  return sent.code() == StatusCode::kUnavailable ? ended() : sent;
}

Result<ReceivedOrder> receive_order(int control_fd, Deadline deadline, const PeerWatch& watch) {
  for (;;) {
    ReceivedOrder order;
    const auto got = receive_packet(control_fd, std::as_writable_bytes(std::span(&order.packet, 1)),
                                    &order.descriptors);
    if (got.status().code() == StatusCode::kUnavailable) return ended();
    RETURN_IF_ERROR(got.status());
    if (*got == sizeof(order.packet)) {
      order.packet.endpoint.back() = '\0';
      return order;
    }
    if (*got) return Status(StatusCode::kProtocolError, "a short packet on the control socket");
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
    return;
  }
  auto thread = start_thread("the life of the other process", [this, control_fd, signal_fd] {
    Status failed = without_exceptions([&]() -> Status {
      watch(control_fd, signal_fd);
      return {};
    });
    if (!failed.ok()) end(std::move(failed));
  });
  if (thread.ok()) {
    thread_ = std::move(thread).value();
  } else {
    end(thread.status());
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
