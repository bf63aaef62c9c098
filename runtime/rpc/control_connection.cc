#include "runtime/rpc/control_connection.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

#include "base/file.h"
#include "base/packet.h"
#include "proto/limits.h"
#include "runtime/rpc/tcp.h"

namespace airlock {
namespace {

constexpr std::size_t kMaxBytes = limits::kMaxControlFrameBytes;
/// In front of a message on TCP: its length, little endian.
constexpr std::size_t kLengthBytes = 4;
/// After a connection that could not be accepted.
constexpr std::chrono::milliseconds kRest{50};
/// Connections that wait to be accepted.
constexpr int kBacklog = 128;

/// A message as it leaves on TCP.
std::vector<std::byte> with_length(std::span<const std::byte> message) {
  std::vector<std::byte> bytes;
  bytes.reserve(kLengthBytes + message.size());
  for (std::size_t i = 0; i < kLengthBytes; ++i)
    bytes.push_back(static_cast<std::byte>(message.size() >> (8 * i)));
  bytes.insert(bytes.end(), message.begin(), message.end());
  return bytes;
}

/// Who made the connection, by the kernel's word.
Result<ucred> credentials(int fd) {
  ucred peer{};
  socklen_t size = sizeof(peer);
  if (::getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0)
    return os_error("ask for the peer's user", errno);
  return peer;
}

Result<UniqueFd> connect_ipc(const std::string& path) {
  ASSIGN_OR_RETURN(const sockaddr_un address, unix_address(path));
  UniqueFd fd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.valid()) return os_error("make a control socket", errno);
  if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    if (errno == EPROTOTYPE) {
      return Status(StatusCode::kVersionMismatch,
                    "what listens at ipc://{} is no gpu_server of this release: run the same "
                    "release on both sides",
                    path);
    }
    // EAGAIN: so many knock that the server has not come round to all.
    return Status(StatusCode::kUnavailable, "cannot connect to ipc://{}: {}", path,
                  os_message(errno));
  }
  ASSIGN_OR_RETURN(const ucred server, credentials(fd.get()));
  if (server.uid == ::geteuid()) return fd;
  return Status(StatusCode::kInvalidInput,
                "the server at ipc://{} runs as user {}, not as {}: its files are not ours", path,
                server.uid, ::geteuid());
}

}  // namespace

Result<ControlConnection> ControlConnection::connect(const Endpoint& endpoint, Deadline deadline,
                                                     const StreamSecurity* security,
                                                     const WaitCheck& check) {
  if (endpoint.kind == Endpoint::Kind::kTcp) {
    ASSIGN_OR_RETURN(UniqueFd fd, connect_tcp(endpoint, deadline));
    std::string peer = peer_address(fd.get());
    ASSIGN_OR_RETURN(SocketStream stream,
                     SocketStream::open(std::move(fd), security, StreamRole::kClient));
    if (const Status met = stream.shake_hands(deadline, check); !met.ok()) {
      if (met.code() != StatusCode::kUnavailable && met.code() != StatusCode::kDeadlineExceeded)
        return met;
      return Status(StatusCode::kUnavailable,
                    "what listens at {} shows no key: it was started without --authorized-keys, "
                    "has just ended, or hangs",
                    endpoint.text());
    }
    return ControlConnection(std::move(stream), endpoint.kind, std::move(peer),
                             Descriptors::kRefuse);
  }
  ASSIGN_OR_RETURN(UniqueFd fd, connect_ipc(endpoint.path));
  return ControlConnection(SocketStream(std::move(fd)), endpoint.kind, endpoint.text(),
                           Descriptors::kTake);
}

Status ControlConnection::send(const ControlMessage& message, std::span<const int> descriptors) {
  const std::vector<std::byte> bytes = encode_control(message);
  if (kind_ == Endpoint::Kind::kIpc) return send_packet(fd(), bytes, descriptors);
  if (sending()) RETURN_IF_ERROR(flush());
  if (sending()) return {StatusCode::kBusy, "the peer does not read"};
  outgoing_ = with_length(bytes);
  return flush();
}

void ControlConnection::refuse_without_keys() const {
  if (stream_.is_open()) return;
  const std::vector<std::byte> bytes = with_length(encode_control(
      Refusal{StatusCode::kMismatch,
              "it lets in who shows a key: give --server-key and --key (airlock_keygen)"}));
  (void)::send(fd(), bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
}

Status ControlConnection::flush() {
  while (!outgoing_.empty()) {
    const iovec part{outgoing_.data(), outgoing_.size()};
    const auto sent = stream_.send({&part, 1});
    if (sent.status().code() == StatusCode::kBusy) return {};
    RETURN_IF_ERROR(sent.status());
    outgoing_.erase(outgoing_.begin(), outgoing_.begin() + static_cast<std::ptrdiff_t>(*sent));
  }
  const Status left = stream_.flush();
  return left.code() == StatusCode::kBusy ? Status() : left;
}

Result<std::optional<ControlFrame>> ControlConnection::receive() {
  if (kind_ == Endpoint::Kind::kTcp) return receive_tcp();
  ControlFrame frame;
  std::array<std::byte, kMaxBytes> bytes;
  auto* const descriptors = descriptors_ == Descriptors::kTake ? &frame.descriptors : nullptr;
  ASSIGN_OR_RETURN(const auto size, receive_packet(fd(), bytes, descriptors));
  if (!size) return std::optional<ControlFrame>();
  frame.bytes.assign(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(*size));
  return std::optional<ControlFrame>(std::move(frame));
}

Result<std::optional<ControlFrame>> ControlConnection::receive_tcp() {
  for (;;) {
    if (incoming_.size() >= kLengthBytes) {
      std::size_t length = 0;
      for (std::size_t i = 0; i < kLengthBytes; ++i)
        length |= std::to_integer<std::size_t>(incoming_[i]) << (8 * i);
      if (length == 0 || length > kMaxBytes) {
        return Status(StatusCode::kProtocolError,
                      "a control message of {} bytes, at most {} are taken", length, kMaxBytes);
      }
      if (incoming_.size() >= kLengthBytes + length) {
        const auto begin = incoming_.begin() + kLengthBytes;
        const auto end = begin + static_cast<std::ptrdiff_t>(length);
        ControlFrame frame{{begin, end}, {}};
        incoming_.erase(incoming_.begin(), end);
        return std::optional<ControlFrame>(std::move(frame));
      }
    }
    // Never more than one message's: what follows stays in the kernel, where it is bounded.
    std::array<std::byte, kLengthBytes + kMaxBytes> bytes;
    const iovec part{bytes.data(), bytes.size() - incoming_.size()};
    const auto got = stream_.receive({&part, 1});
    if (got.status().code() == StatusCode::kBusy) return std::optional<ControlFrame>();
    RETURN_IF_ERROR(got.status());
    incoming_.insert(incoming_.end(), bytes.begin(),
                     bytes.begin() + static_cast<std::ptrdiff_t>(*got));
  }
}

bool ControlConnection::peer_closed() const {
  pollfd look{fd(), POLLRDHUP, 0};
  return ::poll(&look, 1, 0) > 0 && (look.revents & (POLLRDHUP | POLLHUP | POLLERR)) != 0;
}

Result<ControlListener> ControlListener::listen(const Endpoint& endpoint,
                                                const StreamSecurity* security) {
  UniqueFd spare(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  if (!spare.valid()) return os_error("open /dev/null", errno);
  if (endpoint.kind == Endpoint::Kind::kTcp) {
    ASSIGN_OR_RETURN(UniqueFd fd, listen_tcp(endpoint, kBacklog));
    Endpoint real = endpoint;
    ASSIGN_OR_RETURN(real.port, bound_port(fd.get()));
    if (real.host == "*") real.host = "0.0.0.0";
    return ControlListener(std::move(fd), std::move(real), security, std::move(spare));
  }
  ASSIGN_OR_RETURN(const sockaddr_un address, unix_address(endpoint.path));
  UniqueFd fd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.valid()) return os_error("make the control socket", errno);
  struct stat info {};
  if (::lstat(endpoint.path.c_str(), &info) == 0 && S_ISSOCK(info.st_mode))
    ::unlink(endpoint.path.c_str());
  // The directory is 0700, so that nobody gets in between bind() and chmod().
  if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0 ||
      ::chmod(endpoint.path.c_str(), 0600) != 0 || ::listen(fd.get(), kBacklog) != 0)
    return os_error("listen at " + endpoint.text(), errno);
  return ControlListener(std::move(fd), endpoint, nullptr, std::move(spare));
}

std::optional<ControlConnection> ControlListener::accept() {
  UniqueFd fd(::accept4(fd_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!fd.valid()) {
    const int error = errno;
    pollfd waiting{fd_.get(), POLLIN, 0};
    // Where no descriptor is left accept4() says so before it looks whether anybody waits.
    if (error != EAGAIN && error != EINTR && ::poll(&waiting, 1, 0) > 0) {
      spare_.reset();
      const UniqueFd turned_away(::accept4(fd_.get(), nullptr, nullptr, SOCK_CLOEXEC));
      // Where that failed too, whoever waits would wake the poll for ever.
      rest_until_ = Deadline::after(kRest);
    }
    if (!spare_.valid()) spare_.reset(::open("/dev/null", O_RDONLY | O_CLOEXEC));
    return std::nullopt;
  }
  if (endpoint_.kind == Endpoint::Kind::kTcp) {
    const int on = 1;
    (void)::setsockopt(fd.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    std::string peer = peer_address(fd.get());
    auto stream = SocketStream::open(std::move(fd), security_, StreamRole::kServer);
    if (!stream.ok()) return std::nullopt;
    return ControlConnection(std::move(stream).value(), endpoint_.kind, std::move(peer),
                             ControlConnection::Descriptors::kRefuse);
  }
  const auto peer = credentials(fd.get());
  if (!peer.ok() || peer->uid != ::geteuid()) return std::nullopt;
  return ControlConnection(SocketStream(std::move(fd)), endpoint_.kind,
                           fmt::format("process {}", peer->pid),
                           ControlConnection::Descriptors::kRefuse);
}

}  // namespace airlock
