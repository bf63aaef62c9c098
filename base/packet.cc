#include "base/packet.h"

#include <sys/socket.h>

#include <cerrno>
#include <cstring>

#include "base/file.h"

namespace airlock {
namespace {

Status closed() { return {StatusCode::kUnavailable, "the peer closed the connection"}; }

/// Room for a control message with the most descriptors.
struct alignas(cmsghdr) ControlSpace {
  char bytes[CMSG_SPACE(kMaxPassedDescriptors * sizeof(int))] = {};
};

void take_descriptors(msghdr& message, std::vector<UniqueFd>& into) {
  for (cmsghdr* part = CMSG_FIRSTHDR(&message); part != nullptr;
       part = CMSG_NXTHDR(&message, part)) {
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
    const std::size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (std::size_t i = 0; i < count; ++i) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(part) + i * sizeof(int), sizeof(int));
      into.emplace_back(fd);
    }
  }
}

}  // namespace

Status send_packet(int socket_fd, std::span<const std::byte> bytes,
                   std::span<const int> descriptors) {
  CHECK(!bytes.empty() && descriptors.size() <= kMaxPassedDescriptors);
  // sendmsg() only reads what it is given.
  iovec part{const_cast<std::byte*>(bytes.data()), bytes.size()};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  ControlSpace space;
  if (!descriptors.empty()) {
    message.msg_control = space.bytes;
    message.msg_controllen = CMSG_SPACE(descriptors.size_bytes());
    cmsghdr* const rights = CMSG_FIRSTHDR(&message);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(descriptors.size_bytes());
    std::memcpy(CMSG_DATA(rights), descriptors.data(), descriptors.size_bytes());
  }
  while (::sendmsg(socket_fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT) < 0) {
    if (errno == EINTR) continue;
    if (errno == EAGAIN || errno == EWOULDBLOCK || errno == ENOBUFS)
      return {StatusCode::kBusy, "the peer does not read"};
    if (errno == EPIPE || errno == ECONNRESET || errno == ENOTCONN) return closed();
    return os_error("send a packet", errno);
  }
  return {};
}

Result<std::optional<std::size_t>> receive_packet(int socket_fd, std::span<std::byte> into,
                                                  std::vector<UniqueFd>* descriptors) {
  iovec part{into.data(), into.size()};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  ControlSpace space;
  if (descriptors != nullptr) {
    message.msg_control = space.bytes;
    // Not a byte more, or alignment makes room for another one.
    message.msg_controllen = CMSG_LEN(kMaxPassedDescriptors * sizeof(int));
  }
  if (descriptors != nullptr) descriptors->reserve(descriptors->size() + kMaxPassedDescriptors);
  ssize_t got = 0;
  // A peer that closed with unread packets leaves an error in front of what it sent last.
  bool was_reset = false;
  while ((got = ::recvmsg(socket_fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC)) < 0) {
    if (errno == EINTR) continue;
    if (errno == EAGAIN || errno == EWOULDBLOCK) return std::optional<std::size_t>();
    if (errno == ECONNRESET && !was_reset) {
      was_reset = true;
      continue;
    }
    if (errno == ECONNRESET || errno == ENOTCONN || errno == EPIPE) return closed();
    return os_error("receive a packet", errno);
  }
  if (descriptors != nullptr) take_descriptors(message, *descriptors);
  if (got == 0) return closed();
  if ((message.msg_flags & MSG_CTRUNC) != 0) {
    return Status(StatusCode::kProtocolError, "a packet with descriptors that nobody expects");
  }
  if ((message.msg_flags & MSG_TRUNC) != 0) {
    return Status(StatusCode::kProtocolError, "a packet of more than {} bytes", into.size());
  }
  return std::optional<std::size_t>(static_cast<std::size_t>(got));
}

}  // namespace airlock
