#include "runtime/channel/zmq_socket.h"

#include <fmt/format.h>
#include <zmq.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <set>
#include <utility>

namespace airlock {
namespace {

constexpr std::size_t kMaxParts = 8;
constexpr int kMonitorEvents = ZMQ_EVENT_CONNECTED | ZMQ_EVENT_ACCEPTED | ZMQ_EVENT_DISCONNECTED |
                               ZMQ_EVENT_CLOSED | ZMQ_EVENT_HANDSHAKE_SUCCEEDED;

Status zmq_error(int error, std::string_view doing) {
  StatusCode code = StatusCode::kInternal;
  switch (error) {
    case ETERM:
      code = StatusCode::kCancelled;
      break;
    case EHOSTUNREACH:
      code = StatusCode::kUnavailable;
      break;
    case EADDRINUSE:
      code = StatusCode::kInUse;
      break;
    case ENOMEM:
    case EMFILE:
    case ENFILE:
      code = StatusCode::kResourceExhausted;
      break;
    case EINVAL:
    case EPROTONOSUPPORT:
    case ENOCOMPATPROTO:
    case ENODEV:
    case ENAMETOOLONG:
      code = StatusCode::kInvalidInput;
      break;
    case EADDRNOTAVAIL:
    case EACCES:
    case EPERM:
    case ENOENT:
    case ENOTDIR:
    case ECONNREFUSED:
      code = StatusCode::kUnavailable;
      break;
    default:
      break;
  }
  return Status(code, fmt::format("ZeroMQ cannot {}: {}", doing, zmq_strerror(error)));
}

/// A zmq_msg_t that is closed on every way out.
class Frame {
 public:
  Frame() { zmq_msg_init(&message_); }
  ~Frame() { zmq_msg_close(&message_); }
  Frame(const Frame&) = delete;
  Frame& operator=(const Frame&) = delete;

  zmq_msg_t* get() { return &message_; }
  bool more() const { return zmq_msg_more(&message_) != 0; }
  std::span<const std::byte> bytes() {
    return {static_cast<const std::byte*>(zmq_msg_data(&message_)), zmq_msg_size(&message_)};
  }

 private:
  zmq_msg_t message_{};
};

void release_owner(void*, void* hint) { delete static_cast<std::shared_ptr<const void>*>(hint); }

std::span<const std::byte> as_bytes_of(std::string_view text) {
  return std::as_bytes(std::span<const char>(text.data(), text.size()));
}

}  // namespace

Result<std::unique_ptr<ZmqContext>> ZmqContext::create() {
  void* handle = zmq_ctx_new();
  if (handle == nullptr) return zmq_error(errno, "make a context");
  return std::unique_ptr<ZmqContext>(new ZmqContext(handle));
}

ZmqContext::~ZmqContext() {
  while (zmq_ctx_term(handle_) != 0 && errno == EINTR) {
  }
}

struct ZmqSocket::Impl {
  void* socket = nullptr;
  void* monitor = nullptr;
  ZmqSocketType type = ZmqSocketType::kDealer;
  std::set<int> live;  // file descriptors of the connections
  int wake_fd = -1;
  bool shook_hands = false;
  bool had_connection = false;

  Impl() = default;
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;
  ~Impl() {
    if (monitor != nullptr) {
      zmq_socket_monitor(socket, nullptr, 0);
      zmq_close(monitor);
    }
    if (socket != nullptr) zmq_close(socket);
  }

  Status set(int option, int value, std::string_view name) {
    if (zmq_setsockopt(socket, option, &value, sizeof(value)) == 0) return {};
    return zmq_error(errno, fmt::format("set {} to {}", name, value));
  }
  /// Only for an IPv6 address: with it libzmq takes "tcp://*" for [::], which a host without IPv6
  /// has not.
  Status allow_ipv6(const std::string& endpoint) {
    return endpoint.starts_with("tcp://[") ? set(ZMQ_IPV6, 1, "IPV6") : Status();
  }
  Status configure(const ZmqSocketOptions& options);
  Status open_monitor(void* context);
  void drain_monitor();
  Status wait(short events, Deadline deadline);
  Status receive_part(Frame& frame, Deadline deadline);
  void drop_rest(const Frame& first);
  template <typename Try>
  Status send_first_part(Try&& attempt, Deadline deadline);
};

Status ZmqSocket::Impl::configure(const ZmqSocketOptions& options) {
  RETURN_IF_ERROR(set(ZMQ_LINGER, static_cast<int>(options.linger.count()), "LINGER"));
  RETURN_IF_ERROR(set(ZMQ_SNDHWM, options.send_high_water_frames, "SNDHWM"));
  RETURN_IF_ERROR(set(ZMQ_RCVHWM, options.receive_high_water_frames, "RCVHWM"));
  const auto max_frame = static_cast<std::int64_t>(options.max_frame_bytes);
  if (zmq_setsockopt(socket, ZMQ_MAXMSGSIZE, &max_frame, sizeof(max_frame)) != 0) {
    return zmq_error(errno, fmt::format("set MAXMSGSIZE to {}", max_frame));
  }
  if (type == ZmqSocketType::kRouter) {
    RETURN_IF_ERROR(
        set(ZMQ_ROUTER_MANDATORY, options.router_mandatory ? 1 : 0, "ROUTER_MANDATORY"));
  } else if (!options.routing_id.empty() &&
             zmq_setsockopt(socket, ZMQ_ROUTING_ID, options.routing_id.data(),
                            options.routing_id.size()) != 0) {
    return zmq_error(errno, "set ROUTING_ID");
  }
  if (options.heartbeat_timeout.count() > 0) {
    const int timeout = static_cast<int>(options.heartbeat_timeout.count());
    RETURN_IF_ERROR(set(ZMQ_HEARTBEAT_IVL, 1000, "HEARTBEAT_IVL"));
    RETURN_IF_ERROR(set(ZMQ_HEARTBEAT_TIMEOUT, timeout, "HEARTBEAT_TIMEOUT"));
  }
  if (!options.reconnect) RETURN_IF_ERROR(set(ZMQ_RECONNECT_IVL, -1, "RECONNECT_IVL"));
  if (options.send_buffer_bytes > 0) {
    RETURN_IF_ERROR(set(ZMQ_SNDBUF, options.send_buffer_bytes, "SNDBUF"));
  }
  if (options.receive_buffer_bytes > 0) {
    RETURN_IF_ERROR(set(ZMQ_RCVBUF, options.receive_buffer_bytes, "RCVBUF"));
  }
  return {};
}

Status ZmqSocket::Impl::open_monitor(void* context) {
  static std::atomic<std::uint64_t> counter{0};  // relaxed: only unique names
  const std::string endpoint =
      fmt::format("inproc://airlock-monitor-{}", counter.fetch_add(1, std::memory_order_relaxed));
  if (zmq_socket_monitor(socket, endpoint.c_str(), kMonitorEvents) != 0) {
    return zmq_error(errno, "watch a socket");
  }
  monitor = zmq_socket(context, ZMQ_PAIR);
  if (monitor == nullptr) return zmq_error(errno, "make a socket");
  const int none = 0;
  // No high-water mark: libzmq's I/O thread would stop all traffic when strangers' events fill it.
  zmq_setsockopt(monitor, ZMQ_RCVHWM, &none, sizeof(none));
  zmq_setsockopt(monitor, ZMQ_LINGER, &none, sizeof(none));
  if (zmq_connect(monitor, endpoint.c_str()) != 0) return zmq_error(errno, "watch a socket");
  return {};
}

void ZmqSocket::Impl::drain_monitor() {
  if (monitor == nullptr) return;
  for (;;) {
    Frame event;
    if (zmq_msg_recv(event.get(), monitor, ZMQ_DONTWAIT) < 0) return;
    std::uint16_t number = 0;
    std::uint32_t value = 0;
    const auto bytes = event.bytes();
    if (bytes.size() >= sizeof(number) + sizeof(value)) {
      std::memcpy(&number, bytes.data(), sizeof(number));
      std::memcpy(&value, bytes.data() + sizeof(number), sizeof(value));
    }
    if (event.more()) {
      Frame address;
      if (zmq_msg_recv(address.get(), monitor, ZMQ_DONTWAIT) < 0) return;
    }
    const int fd = static_cast<int>(value);
    switch (number) {
      case ZMQ_EVENT_CONNECTED:
      case ZMQ_EVENT_ACCEPTED:
        live.insert(fd);
        break;
      case ZMQ_EVENT_HANDSHAKE_SUCCEEDED:
        shook_hands = true;
        had_connection = true;
        break;
      case ZMQ_EVENT_DISCONNECTED:
        live.erase(fd);
        break;
      case ZMQ_EVENT_CLOSED:  // a connection attempt that failed (or a listener, at a ROUTER)
        if (type == ZmqSocketType::kDealer) had_connection = true;
        break;
      default:
        break;
    }
  }
}

Status ZmqSocket::Impl::wait(short events, Deadline deadline) {
  for (;;) {
    drain_monitor();
    zmq_pollitem_t items[3] = {{socket, 0, events, 0}};
    int count = 1;
    if (wake_fd >= 0) {
      items[count++] = {nullptr, wake_fd, ZMQ_POLLIN, 0};
      if (monitor != nullptr) items[count++] = {monitor, 0, ZMQ_POLLIN, 0};
    }
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline.remaining()).count();
    const int ready = zmq_poll(items, count, static_cast<long>(left));
    if (items[0].revents != 0) return {};
    if (ready < 0 && errno != EINTR) return zmq_error(errno, "poll");
    if (ready > 0 || deadline.expired())
      return Status(StatusCode::kDeadlineExceeded, "nothing happened");
  }
}

Status ZmqSocket::Impl::receive_part(Frame& frame, Deadline deadline) {
  for (;;) {
    if (zmq_msg_recv(frame.get(), socket, ZMQ_DONTWAIT) >= 0) return {};
    if (errno == EINTR) continue;
    if (errno != EAGAIN) return zmq_error(errno, "receive");
    if (deadline.expired()) return Status(StatusCode::kDeadlineExceeded, "no message came");
    RETURN_IF_ERROR(wait(ZMQ_POLLIN, deadline));
  }
}

void ZmqSocket::Impl::drop_rest(const Frame& first) {
  bool more = first.more();
  while (more) {  // the parts of one message come together: never waits
    Frame part;
    if (zmq_msg_recv(part.get(), socket, ZMQ_DONTWAIT) < 0) {
      if (errno != EINTR) return;
    } else {
      more = part.more();
    }
  }
}

/// Only the first part of a message can be refused for want of room; then nothing of the message is
/// taken.
template <typename Try>
Status ZmqSocket::Impl::send_first_part(Try&& attempt, Deadline deadline) {
  for (;;) {
    if (attempt() >= 0) return {};
    if (errno == EINTR) continue;
    if (errno != EAGAIN) return zmq_error(errno, "send");
    if (deadline.expired()) return Status(StatusCode::kBusy, "no room to send");
    // A ROUTER is writable as soon as any of its peers is: the slice keeps this from spinning for
    // another.
    const Status waited = wait(ZMQ_POLLOUT, deadline.slice(std::chrono::milliseconds(50)));
    if (!waited.ok() && waited.code() != StatusCode::kDeadlineExceeded) return waited;
    if (waited.ok() && type == ZmqSocketType::kRouter) {
      zmq_poll(nullptr, 0, 1);
    }
  }
}

ZmqSocket::ZmqSocket(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ZmqSocket::ZmqSocket(ZmqSocket&&) noexcept = default;
ZmqSocket& ZmqSocket::operator=(ZmqSocket&&) noexcept = default;
ZmqSocket::~ZmqSocket() = default;

Result<ZmqSocket> ZmqSocket::create(const ZmqContext& context, ZmqSocketType type,
                                    const ZmqSocketOptions& options) {
  auto impl = std::make_unique<Impl>();
  impl->type = type;
  impl->wake_fd = options.wake_fd;
  impl->socket =
      zmq_socket(context.handle(), type == ZmqSocketType::kRouter ? ZMQ_ROUTER : ZMQ_DEALER);
  if (impl->socket == nullptr) return zmq_error(errno, "make a socket");
  RETURN_IF_ERROR(impl->configure(options));
  if (options.monitor) RETURN_IF_ERROR(impl->open_monitor(context.handle()));
  return ZmqSocket(std::move(impl));
}

Result<std::string> ZmqSocket::bind(const std::string& endpoint) {
  RETURN_IF_ERROR(impl_->allow_ipv6(endpoint));
  if (zmq_bind(impl_->socket, endpoint.c_str()) != 0) {
    return zmq_error(errno, fmt::format("bind {}", endpoint));
  }
  char real[512];
  std::size_t size = sizeof(real);
  if (zmq_getsockopt(impl_->socket, ZMQ_LAST_ENDPOINT, real, &size) != 0) {
    return zmq_error(errno, "name the endpoint");
  }
  return std::string(real);
}

Status ZmqSocket::connect(const std::string& endpoint) {
  RETURN_IF_ERROR(impl_->allow_ipv6(endpoint));
  if (zmq_connect(impl_->socket, endpoint.c_str()) == 0) return {};
  return zmq_error(errno, fmt::format("connect to {}", endpoint));
}

Status ZmqSocket::send(std::span<const std::span<const std::byte>> parts, Deadline deadline) {
  CHECK(!parts.empty());
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const int flags = ZMQ_DONTWAIT | (i + 1 < parts.size() ? ZMQ_SNDMORE : 0);
    const auto attempt = [&] {
      return zmq_send(impl_->socket, parts[i].data(), parts[i].size(), flags);
    };
    if (i == 0) {
      RETURN_IF_ERROR(impl_->send_first_part(attempt, deadline));
    } else {
      while (attempt() < 0) {
        if (errno != EINTR) return zmq_error(errno, "send the rest of a message");
      }
    }
  }
  return {};
}

Status ZmqSocket::send_shared(std::string_view route, std::span<const std::byte> bytes,
                              std::shared_ptr<const void> owner, Deadline deadline) {
  auto hint = std::make_unique<std::shared_ptr<const void>>(std::move(owner));
  Frame frame;
  // libzmq takes a mutable pointer, and only reads.
  void* data =
      const_cast<std::byte*>(bytes.data());  // NOLINT(cppcoreguidelines-pro-type-const-cast)
  if (zmq_msg_init_data(frame.get(), data, bytes.size(), release_owner, hint.get()) != 0) {
    return zmq_error(errno, "lend a buffer");
  }
  (void)hint
      .release();  // from here on release_owner() has it, called when the frame is closed or sent
  const auto attempt_frame = [&] { return zmq_msg_send(frame.get(), impl_->socket, ZMQ_DONTWAIT); };
  if (route.empty()) return impl_->send_first_part(attempt_frame, deadline);
  const auto attempt_route = [&] {
    return zmq_send(impl_->socket, route.data(), route.size(), ZMQ_DONTWAIT | ZMQ_SNDMORE);
  };
  RETURN_IF_ERROR(impl_->send_first_part(attempt_route, deadline));
  while (attempt_frame() < 0) {
    if (errno != EINTR) return zmq_error(errno, "send the rest of a message");
  }
  return {};
}

Result<std::vector<std::vector<std::byte>>> ZmqSocket::receive(Deadline deadline) {
  std::vector<std::vector<std::byte>> parts;
  for (bool more = true; more;) {
    Frame frame;
    RETURN_IF_ERROR(impl_->receive_part(frame, deadline));
    if (parts.size() == kMaxParts) {
      impl_->drop_rest(frame);
      return Status(StatusCode::kProtocolError,
                    fmt::format("a ZeroMQ message of more than {} parts", kMaxParts));
    }
    const auto bytes = frame.bytes();
    parts.emplace_back(bytes.begin(), bytes.end());
    more = frame.more();
  }
  return parts;
}

Result<std::size_t> ZmqSocket::receive_into(std::string_view route, std::span<std::byte> into,
                                            Deadline deadline) {
  for (;;) {
    Frame frame;
    RETURN_IF_ERROR(impl_->receive_part(frame, deadline));
    if (impl_->type == ZmqSocketType::kRouter) {
      if (!std::ranges::equal(frame.bytes(), as_bytes_of(route))) {
        impl_->drop_rest(frame);
        if (deadline.expired()) return Status(StatusCode::kDeadlineExceeded, "no message came");
        continue;
      }
      if (!frame.more()) return Status(StatusCode::kProtocolError, "an empty ZeroMQ message");
      RETURN_IF_ERROR(impl_->receive_part(frame, deadline));
    }
    const auto bytes = frame.bytes();
    if (frame.more()) {
      impl_->drop_rest(frame);
      return Status(StatusCode::kProtocolError, "a ZeroMQ message of several parts");
    }
    if (bytes.size() > into.size()) {
      return Status(StatusCode::kProtocolError,
                    fmt::format("a ZeroMQ frame of {} bytes, expected at most {}", bytes.size(),
                                into.size()));
    }
    if (!bytes.empty()) std::memcpy(into.data(), bytes.data(), bytes.size());
    return bytes.size();
  }
}

Status ZmqSocket::poll(Wake wake, Deadline deadline) {
  const int events =
      (wake == Wake::kWritable ? 0 : ZMQ_POLLIN) | (wake == Wake::kReadable ? 0 : ZMQ_POLLOUT);
  return impl_->wait(static_cast<short>(events), deadline);
}

Status ZmqSocket::pause(std::chrono::milliseconds span) {
  impl_->drain_monitor();
  zmq_poll(nullptr, 0, static_cast<long>(span.count()));
  return Status(StatusCode::kDeadlineExceeded, "nothing happened");
}

bool ZmqSocket::connected() {
  impl_->drain_monitor();
  return impl_->shook_hands && !impl_->live.empty();
}

bool ZmqSocket::disconnected() {
  impl_->drain_monitor();
  return impl_->had_connection && impl_->live.empty();
}

ZmqSocketOptions data_socket_options(std::string routing_id,
                                     std::chrono::milliseconds heartbeat_timeout) {
  ZmqSocketOptions options;
  options.routing_id = std::move(routing_id);
  options.heartbeat_timeout = heartbeat_timeout;
  return options;
}

}  // namespace airlock
