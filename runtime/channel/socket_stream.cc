#include "runtime/channel/socket_stream.h"

#include <poll.h>
#include <sys/socket.h>

#include <cerrno>
#include <chrono>
#include <utility>

namespace airlock {
namespace {

/// Between two looks whether anybody waits for a handshake any more.
constexpr std::chrono::milliseconds kLookSlice{100};

bool would_wait(int error) { return error == EAGAIN || error == EWOULDBLOCK; }

/// Part by part, for as long as each is moved whole: what was moved before counts.
template <typename Move>
Result<std::size_t> each_part(std::span<const iovec> parts, const Move& move) {
  std::size_t moved = 0;
  for (const iovec& part : parts) {
    for (std::size_t at = 0; at < part.iov_len;) {
      const Result<std::size_t> count =
          move(static_cast<std::byte*>(part.iov_base) + at, part.iov_len - at);
      if (!count.ok() && moved > 0) return moved;
      RETURN_IF_ERROR(count.status());
      at += *count;
      moved += *count;
    }
  }
  return moved;
}

/// sendmsg() and recvmsg() take a mutable pointer, and leave the parts as they are.
msghdr message_of(std::span<const iovec> parts) {
  msghdr message{};
  message.msg_iov = const_cast<iovec*>(parts.data());
  message.msg_iovlen = parts.size();
  return message;
}

}  // namespace

Result<SocketStream> SocketStream::open(UniqueFd fd, const StreamSecurity* security,
                                        StreamRole role) {
  SocketStream stream(std::move(fd));
  if (security != nullptr) {
    ASSIGN_OR_RETURN(stream.session_, security->begin(stream.fd(), role));
  }
  return stream;
}

Result<std::size_t> SocketStream::send(std::span<const iovec> parts) {
  if (session_ != nullptr) {
    auto taken = each_part(parts, [this](const std::byte* bytes, std::size_t count) {
      return session_->send({bytes, count});
    });
    // What stays is sending().
    const Status left = session_->flush();
    if (!left.ok() && left.code() != StatusCode::kBusy) return left;
    return taken;
  }
  const msghdr message = message_of(parts);
  ssize_t taken = -1;
  do {
    taken = ::sendmsg(fd(), &message, MSG_DONTWAIT | MSG_NOSIGNAL);
  } while (taken < 0 && errno == EINTR);
  if (taken >= 0) return static_cast<std::size_t>(taken);
  if (would_wait(errno)) return Status(StatusCode::kBusy, "no room to send");
  return Status(StatusCode::kUnavailable, "the peer closed the connection");
}

Result<std::size_t> SocketStream::receive(std::span<const iovec> parts) {
  if (session_ != nullptr) {
    return each_part(parts, [this](std::byte* into, std::size_t count) {
      return session_->receive({into, count});
    });
  }
  msghdr message = message_of(parts);
  ssize_t count = -1;
  do {
    count = ::recvmsg(fd(), &message, MSG_DONTWAIT);
  } while (count < 0 && errno == EINTR);
  if (count > 0) return static_cast<std::size_t>(count);
  if (count < 0 && would_wait(errno)) return Status(StatusCode::kBusy, "nothing came");
  return Status(StatusCode::kUnavailable, "the peer closed the connection");
}

Status SocketStream::shake_hands(Deadline deadline, const WaitCheck& check) {
  if (session_ == nullptr) return {};
  for (;;) {
    Status status = session_->shake_hands();
    if (status.code() != StatusCode::kBusy) return status;
    if (deadline.expired())
      return {StatusCode::kDeadlineExceeded, "the other side has not shown its key"};
    if (check) RETURN_IF_ERROR(check());
    pollfd waiting{fd(), session_->events(POLLIN), 0};
    const auto left =
        std::chrono::ceil<std::chrono::milliseconds>(deadline.slice(kLookSlice).remaining());
    (void)::poll(&waiting, 1, static_cast<int>(left.count()));
  }
}

}  // namespace airlock
