#include "runtime/channel/zmq_socket.h"

#include <fmt/format.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <new>
#include <set>
#include <thread>
#include <type_traits>
#include <utility>
#include <zmq.hpp>

namespace airlock {
namespace {

using Owner = std::shared_ptr<const void>;
/// Called by libzmq's I/O thread; tests/tsan.supp knows it by name.
void release_owner(void*, void* hint) { delete static_cast<Owner*>(hint); }

using namespace std::chrono_literals;

constexpr std::size_t kMaxParts = 8;
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
  return guarded("make a context", []() -> Result<std::unique_ptr<ZmqContext>> {
    return std::unique_ptr<ZmqContext>(new ZmqContext(std::make_unique<Impl>()));
  });
}

/// All but drain_monitor() may throw.
struct ZmqSocket::Impl {
  Impl(zmq::context_t& context, ZmqSocketType type, const ZmqSocketOptions& options)
      : is_router(type == ZmqSocketType::kRouter),
        wake_fd(options.wake_fd),
        socket(context, is_router ? zmq::socket_type::router : zmq::socket_type::dealer) {
    socket.set(zmq::sockopt::linger, static_cast<int>(options.linger.count()));
    socket.set(zmq::sockopt::sndhwm, options.high_water_frames);
    socket.set(zmq::sockopt::rcvhwm, options.high_water_frames);
    socket.set(zmq::sockopt::maxmsgsize, static_cast<std::int64_t>(options.max_frame_bytes));
    if (is_router) socket.set(zmq::sockopt::router_mandatory, true);
    if (!options.routing_id.empty()) socket.set(zmq::sockopt::routing_id, options.routing_id);
    if (options.heartbeat_timeout.count() > 0) {
      socket.set(zmq::sockopt::heartbeat_ivl, 1000);
      socket.set(zmq::sockopt::heartbeat_timeout,
                 static_cast<int>(options.heartbeat_timeout.count()));
    }
    if (!options.reconnect) socket.set(zmq::sockopt::reconnect_ivl, -1);
    if (options.monitor) open_monitor(context);
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
    if (event == ZMQ_EVENT_CONNECTED || event == ZMQ_EVENT_ACCEPTED) live.insert(fd);
    if (event == ZMQ_EVENT_DISCONNECTED) live.erase(fd);
    if (event == ZMQ_EVENT_HANDSHAKE_SUCCEEDED) shook_hands = had_connection = true;
    // A connection attempt that failed. At a ROUTER it would be a listener.
    if (event == ZMQ_EVENT_CLOSED && !is_router) had_connection = true;
  }

  /// Only for an IPv6 address: with it libzmq takes "tcp://*" for [::], which a host without IPv6
  /// does not have.
  void allow_ipv6(const std::string& endpoint) {
    if (endpoint.starts_with("tcp://[")) socket.set(zmq::sockopt::ipv6, true);
  }

  Status wait(short events, Deadline deadline) {
    drain_monitor();
    std::array<zmq::pollitem_t, 3> items{{{socket.handle(), 0, events, 0}}};
    std::size_t count = 1;
    if (wake_fd >= 0) {
      items[count++] = {nullptr, wake_fd, ZMQ_POLLIN, 0};
      if (monitor) items[count++] = {monitor.handle(), 0, ZMQ_POLLIN, 0};
    }
    for (;;) {
      const int ready = uninterrupted([&] {
        const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline.remaining());
        return zmq::poll(items.data(), count, left);
      });
      if (items[0].revents != 0) return {};
      if (ready > 0 || deadline.expired()) {
        return Status(StatusCode::kDeadlineExceeded, "nothing happened");
      }
    }
  }

  Status send(std::span<zmq::message_t> parts, Deadline deadline) {
    for (std::size_t i = 0; i < parts.size(); ++i) {
      const auto more = i + 1 < parts.size() ? zmq::send_flags::sndmore : zmq::send_flags::none;
      const auto flags = zmq::send_flags::dontwait | more;
      while (!uninterrupted([&] { return socket.send(parts[i], flags); })) {
        // Only the first part can be refused for want of room, and then nothing has been taken.
        if (i > 0) return Status(StatusCode::kInternal, "ZeroMQ lost the rest of a message");
        if (deadline.expired()) return Status(StatusCode::kBusy, "no room to send");
        // A ROUTER is writable as soon as any of its peers is: the slice and the pause keep this
        // from spinning while another one has room.
        const Status waited = wait(ZMQ_POLLOUT, deadline.slice(50ms));
        if (!waited.ok() && waited.code() != StatusCode::kDeadlineExceeded) return waited;
        if (waited.ok() && is_router) std::this_thread::sleep_for(1ms);
      }
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

  const bool is_router;
  const int wake_fd;
  zmq::socket_t socket;
  zmq::socket_t monitor;  // no socket at all where none is wanted
  std::set<int> live;     // file descriptors of the connections
  bool shook_hands = false;
  bool had_connection = false;
};

ZmqSocket::ZmqSocket(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ZmqSocket::ZmqSocket(ZmqSocket&&) noexcept = default;
ZmqSocket& ZmqSocket::operator=(ZmqSocket&&) noexcept = default;
ZmqSocket::~ZmqSocket() = default;

Result<ZmqSocket> ZmqSocket::create(const ZmqContext& context, ZmqSocketType type,
                                    const ZmqSocketOptions& options) {
  return guarded("make a socket", [&]() -> Result<ZmqSocket> {
    return ZmqSocket(std::make_unique<Impl>(context.impl_->context, type, options));
  });
}

Result<std::string> ZmqSocket::bind(const std::string& endpoint) {
  return guarded(fmt::format("bind {}", endpoint), [&]() -> Result<std::string> {
    impl_->allow_ipv6(endpoint);
    impl_->socket.bind(endpoint);
    return impl_->socket.get(zmq::sockopt::last_endpoint);
  });
}

Status ZmqSocket::connect(const std::string& endpoint) {
  return guarded(fmt::format("connect to {}", endpoint), [&] {
    impl_->allow_ipv6(endpoint);
    impl_->socket.connect(endpoint);
    return Status();
  });
}

Status ZmqSocket::send(std::span<const std::span<const std::byte>> parts, Deadline deadline) {
  CHECK(!parts.empty());
  return guarded("send", [&] {
    std::vector<zmq::message_t> copies;
    copies.reserve(parts.size());
    for (const auto part : parts) copies.emplace_back(part.data(), part.size());
    return impl_->send(copies, deadline);
  });
}

Status ZmqSocket::send_shared(std::string_view route, std::span<const std::byte> bytes,
                              std::shared_ptr<const void> owner, Deadline deadline) {
  return guarded("send", [&] {
    auto lent = std::make_unique<Owner>(std::move(owner));
    // libzmq takes a mutable pointer, and only reads.
    auto* data = const_cast<std::byte*>(bytes.data());
    zmq::message_t parts[] = {zmq::message_t(route),
                              zmq::message_t(data, bytes.size(), release_owner, lent.get())};
    // From here on it is the message's: release_owner() is called once it is sent or dropped.
    (void)lent.release();
    return impl_->send(std::span(parts).subspan(route.empty() ? 1 : 0), deadline);
  });
}

Result<std::vector<std::vector<std::byte>>> ZmqSocket::receive(Deadline deadline) {
  return guarded("receive", [&]() -> Result<std::vector<std::vector<std::byte>>> {
    std::vector<std::vector<std::byte>> parts;
    zmq::message_t part;
    do {
      RETURN_IF_ERROR(impl_->receive(part, deadline));
      if (parts.size() == kMaxParts) {
        drop_rest(impl_->socket, part);
        return Status(StatusCode::kProtocolError, "a ZeroMQ message of more than {} parts",
                      kMaxParts);
      }
      const auto* bytes = part.data<std::byte>();
      parts.emplace_back(bytes, bytes + part.size());
    } while (part.more());
    return parts;
  });
}

Result<std::size_t> ZmqSocket::receive_into(std::string_view route, std::span<std::byte> into,
                                            Deadline deadline) {
  return guarded("receive", [&]() -> Result<std::size_t> {
    zmq::message_t part;
    RETURN_IF_ERROR(impl_->receive(part, deadline));
    if (impl_->is_router) {
      while (part.to_string_view() != route) {
        drop_rest(impl_->socket, part);
        if (deadline.expired()) return Status(StatusCode::kDeadlineExceeded, "no message came");
        RETURN_IF_ERROR(impl_->receive(part, deadline));
      }
      if (!part.more()) return Status(StatusCode::kProtocolError, "an empty ZeroMQ message");
      RETURN_IF_ERROR(impl_->receive(part, deadline));
    }
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
