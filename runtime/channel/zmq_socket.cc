#include "runtime/channel/zmq_socket.h"

#include <fmt/format.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <new>
#include <set>
#include <thread>
#include <type_traits>
#include <utility>
#include <zmq.hpp>

#include "base/process_limits.h"

namespace airlock {
namespace {

using Owner = std::shared_ptr<const void>;
/// Called by libzmq's I/O thread; tests/tsan.supp knows it by name.
void release_owner(void*, void* hint) { delete static_cast<Owner*>(hint); }

using namespace std::chrono_literals;

/// Queued at each side of the connection.
constexpr int kHighWaterFrames = 16;
constexpr int kMonitorEvents = ZMQ_EVENT_CONNECTED | ZMQ_EVENT_ACCEPTED | ZMQ_EVENT_DISCONNECTED |
                               ZMQ_EVENT_CLOSED | ZMQ_EVENT_HANDSHAKE_SUCCEEDED;

StatusCode code_of(int error) {
  const auto is_one_of = [error](auto... errors) { return ((error == errors) || ...); };
  if (error == ETERM) return StatusCode::kCancelled;
  if (error == EADDRINUSE) return StatusCode::kInUse;
  if (is_one_of(ENOMEM, EMFILE, ENFILE)) return StatusCode::kResourceExhausted;
  if (is_one_of(EINVAL, EPROTONOSUPPORT, ENOCOMPATPROTO, ENODEV, ENAMETOOLONG))
    return StatusCode::kInvalidInput;
  if (is_one_of(EHOSTUNREACH, EADDRNOTAVAIL, EACCES, EPERM, ENOENT, ENOTDIR, ECONNREFUSED))
    return StatusCode::kUnavailable;
  return StatusCode::kInternal;
}

/// Where exceptions end: what `call` returns, or what it threw as a Status. All that ZmqContext and
/// ZmqSocket do with libzmq goes through it.
template <typename Call>
std::invoke_result_t<Call> guarded(std::string_view doing, Call call) {
  zmq::error_t error(ENOMEM);  // unless another is thrown than std::bad_alloc
  try {
    return call();
  } catch (const zmq::error_t& thrown) {
    error = thrown;
  } catch (const std::bad_alloc&) {
  }
  return Status(code_of(error.num()), fmt::format("ZeroMQ cannot {}: {}", doing, error.what()));
}

/// Calls again what a signal interrupted.
template <typename Call>
std::invoke_result_t<Call> uninterrupted(Call call) {
  for (;;) {
    try {
      return call();
    } catch (const zmq::error_t& error) {
      if (error.num() != EINTR) throw;
    }
  }
}

/// False: nothing has come yet.
bool try_receive(zmq::socket_t& socket, zmq::message_t& part) {
  return uninterrupted([&] { return socket.recv(part, zmq::recv_flags::dontwait).has_value(); });
}

/// What follows `part` in its message. The parts of one message come together: never waits.
void drop_rest(zmq::socket_t& socket, zmq::message_t& part) {
  while (part.more() && try_receive(socket, part)) {
  }
}

}  // namespace

struct ZmqContext::Impl {
  zmq::context_t context;
};

ZmqContext::ZmqContext(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ZmqContext::~ZmqContext() = default;

Result<std::unique_ptr<ZmqContext>> ZmqContext::create() {
  // libzmq ends the process where it is refused one of these while it starts, which it does with
  // the first socket.
  constexpr std::size_t kDescriptors = 16;  // measured: 8, and those of the first socket
  constexpr std::size_t kThreads = 2;       // its I/O and its reaper
  RETURN_IF_ERROR(ensure_descriptors(kDescriptors));
  RETURN_IF_ERROR(ensure_threads(kThreads, "ZeroMQ", ThreadMemory::kArena));
  return guarded("make a context", []() -> Result<std::unique_ptr<ZmqContext>> {
    std::unique_ptr<ZmqContext> made(new ZmqContext(std::make_unique<Impl>()));
    const zmq::socket_t first(made->impl_->context, zmq::socket_type::pair);
    return made;
  });
}

/// All but drain_monitor() may throw.
struct ZmqSocket::Impl {
  explicit Impl(zmq::context_t& context) : socket(context, zmq::socket_type::pair) {
    socket.set(zmq::sockopt::linger, 0);
    socket.set(zmq::sockopt::sndhwm, kHighWaterFrames);
    socket.set(zmq::sockopt::rcvhwm, kHighWaterFrames);
    socket.set(zmq::sockopt::maxmsgsize, static_cast<std::int64_t>(limits::kFrameBytes));
    socket.set(zmq::sockopt::reconnect_ivl, -1);
    open_monitor(context);
  }

  ~Impl() {
    // First of all: libzmq writes no event to a monitor that nobody reads any more.
    if (monitor) zmq_socket_monitor(socket.handle(), nullptr, 0);
  }

  // No zmq::monitor_t: its high-water mark cannot be set before it connects.
  void open_monitor(zmq::context_t& context) {
    static std::atomic<std::uint64_t> counter{0};  // relaxed: only unique names
    const std::string endpoint =
        fmt::format("inproc://airlock-monitor-{}", counter.fetch_add(1, std::memory_order_relaxed));
    if (zmq_socket_monitor(socket.handle(), endpoint.c_str(), kMonitorEvents) != 0) {
      throw zmq::error_t();
    }
    monitor = zmq::socket_t(context, zmq::socket_type::pair);
    // Without a high-water mark: when strangers' events filled it, libzmq's I/O thread would stop
    // all traffic.
    monitor.set(zmq::sockopt::rcvhwm, 0);
    monitor.set(zmq::sockopt::linger, 0);
    monitor.connect(endpoint);
  }

  /// An error shows at the socket itself.
  void drain_monitor() {
    (void)guarded("watch a socket", [&] {
      zmq::message_t part;
      while (monitor && try_receive(monitor, part)) {
        take_event(part);
        drop_rest(monitor, part);  // the endpoint
      }
      return Status();
    });
  }

  void take_event(const zmq::message_t& part) {
    std::uint16_t event = 0;
    std::int32_t fd = -1;
    if (part.size() < sizeof(event) + sizeof(fd)) return;
    std::memcpy(&event, part.data(), sizeof(event));
    std::memcpy(&fd, part.data<std::byte>() + sizeof(event), sizeof(fd));
    if (event == ZMQ_EVENT_CONNECTED || event == ZMQ_EVENT_ACCEPTED) {
      live.insert(fd);
      // Also where it never shakes hands.
      had_connection = true;
    }
    if (event == ZMQ_EVENT_DISCONNECTED) live.erase(fd);
    if (event == ZMQ_EVENT_HANDSHAKE_SUCCEEDED) shook_hands = true;
    // A connection attempt that failed. Where it listens, it is the listener.
    if (event == ZMQ_EVENT_CLOSED && !listens) had_connection = true;
  }

  /// Only for an IPv6 address: with it libzmq takes "tcp://*" for [::], which a host without IPv6
  /// does not have.
  void allow_ipv6(const std::string& endpoint) {
    if (endpoint.starts_with("tcp://[")) socket.set(zmq::sockopt::ipv6, true);
  }

  Status wait(short events, Deadline deadline) {
    drain_monitor();
    zmq::pollitem_t item{socket.handle(), 0, events, 0};
    do {
      uninterrupted([&] {
        const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline.remaining());
        return zmq::poll(&item, 1, left);
      });
      if (item.revents != 0) return {};
    } while (!deadline.expired());
    return Status(StatusCode::kDeadlineExceeded, "nothing happened");
  }

  Status send(zmq::message_t& frame, Deadline deadline) {
    while (!uninterrupted([&] { return socket.send(frame, zmq::send_flags::dontwait); })) {
      if (deadline.expired()) return Status(StatusCode::kBusy, "no room to send");
      const Status waited = wait(ZMQ_POLLOUT, deadline);
      if (!waited.ok() && waited.code() != StatusCode::kDeadlineExceeded) return waited;
    }
    return {};
  }

  Status receive(zmq::message_t& part, Deadline deadline) {
    while (!try_receive(socket, part)) {
      if (deadline.expired()) return Status(StatusCode::kDeadlineExceeded, "no message came");
      RETURN_IF_ERROR(wait(ZMQ_POLLIN, deadline));
    }
    return {};
  }

  zmq::socket_t socket;
  zmq::socket_t monitor;
  bool listens = false;
  std::set<int> live;  // file descriptors of the connections
  bool shook_hands = false;
  bool had_connection = false;
};

ZmqSocket::ZmqSocket(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ZmqSocket::ZmqSocket(ZmqSocket&&) noexcept = default;
ZmqSocket& ZmqSocket::operator=(ZmqSocket&&) noexcept = default;
ZmqSocket::~ZmqSocket() = default;

Result<ZmqSocket> ZmqSocket::create(const ZmqContext& context) {
  return guarded("make a socket", [&]() -> Result<ZmqSocket> {
    return ZmqSocket(std::make_unique<Impl>(context.impl_->context));
  });
}

Status ZmqSocket::bind(const std::string& endpoint, UniqueFd listener) {
  return guarded(fmt::format("accept at {}", endpoint), [&] {
    impl_->allow_ipv6(endpoint);
    impl_->socket.set(zmq::sockopt::use_fd, listener.get());
    impl_->socket.bind(endpoint);
    // libzmq's from here on.
    (void)listener.release();
    impl_->listens = true;
    return Status();
  });
}

Status ZmqSocket::connect(const std::string& endpoint) {
  return guarded(fmt::format("connect to {}", endpoint), [&] {
    impl_->allow_ipv6(endpoint);
    impl_->socket.connect(endpoint);
    return Status();
  });
}

Status ZmqSocket::send(std::span<const std::byte> bytes, Deadline deadline) {
  return guarded("send", [&] {
    zmq::message_t copy(bytes.data(), bytes.size());
    return impl_->send(copy, deadline);
  });
}

Status ZmqSocket::send_shared(std::span<const std::byte> bytes, std::shared_ptr<const void> owner,
                              Deadline deadline) {
  return guarded("send", [&] {
    auto lent = std::make_unique<Owner>(std::move(owner));
    // libzmq takes a mutable pointer, and only reads.
    auto* data = const_cast<std::byte*>(bytes.data());
    zmq::message_t frame(data, bytes.size(), release_owner, lent.get());
    // From here on it is the message's: release_owner() is called once it is sent or dropped.
    (void)lent.release();
    return impl_->send(frame, deadline);
  });
}

Result<std::size_t> ZmqSocket::receive_into(std::span<std::byte> into, Deadline deadline) {
  return guarded("receive", [&]() -> Result<std::size_t> {
    zmq::message_t part;
    RETURN_IF_ERROR(impl_->receive(part, deadline));
    if (part.more()) {
      drop_rest(impl_->socket, part);
      return Status(StatusCode::kProtocolError, "a ZeroMQ message of several parts");
    }
    if (part.size() > into.size()) {
      return Status(StatusCode::kProtocolError, "a ZeroMQ frame of {} bytes, expected at most {}",
                    part.size(), into.size());
    }
    if (!part.empty()) std::memcpy(into.data(), part.data(), part.size());
    return part.size();
  });
}

Status ZmqSocket::poll(Wake wake, Deadline deadline) {
  const int events =
      (wake == Wake::kWritable ? 0 : ZMQ_POLLIN) | (wake == Wake::kReadable ? 0 : ZMQ_POLLOUT);
  return guarded("poll", [&] { return impl_->wait(static_cast<short>(events), deadline); });
}

bool ZmqSocket::connected() {
  impl_->drain_monitor();
  return impl_->shook_hands && !impl_->live.empty();
}

bool ZmqSocket::disconnected() {
  impl_->drain_monitor();
  return impl_->had_connection && impl_->live.empty();
}

}  // namespace airlock
