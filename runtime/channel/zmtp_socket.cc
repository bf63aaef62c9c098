#include "runtime/channel/zmtp_socket.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <optional>
#include <string_view>
#include <utility>

#include "base/check.h"

namespace airlock {
namespace {

constexpr std::size_t kStashBytes = 16384;
constexpr std::size_t kFramesAtOnce = 8;
/// More than the system grants without a privilege.
constexpr int kSendBuffer = 4 << 20;

// ZMTP 3.0, "Framing": the first octet of a frame.
constexpr unsigned kMore = 1;
constexpr unsigned kLong = 2;
constexpr unsigned kCommand = 4;
constexpr std::size_t kShortHeadBytes = 2;
constexpr std::size_t kLongHeadBytes = 9;

// "Greeting": signature, version, mechanism, as-server, filler.
constexpr std::size_t kGreetingBytes = 64;
constexpr std::size_t kMajorAt = 10;
constexpr std::size_t kMechanismAt = 12;
constexpr std::size_t kMechanismBytes = 20;
constexpr std::string_view kMechanism = "NULL";

// "The NULL Security Mechanism": READY with a property, its name after a length of one octet and
// its value after one of four.
constexpr std::string_view kReadyName = "READY";
constexpr std::string_view kSocketType = "Socket-Type";
constexpr std::string_view kPair = "PAIR";

void append(std::vector<std::byte>& bytes, std::string_view text) {
  const auto raw = std::as_bytes(std::span(text));
  bytes.insert(bytes.end(), raw.begin(), raw.end());
}
void append_length(std::vector<std::byte>& bytes, std::size_t length) {
  bytes.push_back(static_cast<std::byte>(length));
}

std::vector<std::byte> make_introduction() {
  std::vector<std::byte> bytes(kGreetingBytes);
  bytes[0] = std::byte{0xff};
  bytes[9] = std::byte{0x7f};
  bytes[kMajorAt] = std::byte{3};
  std::memcpy(&bytes[kMechanismAt], kMechanism.data(), kMechanism.size());
  std::vector<std::byte> body;
  append_length(body, kReadyName.size());
  append(body, kReadyName);
  append_length(body, kSocketType.size());
  append(body, kSocketType);
  body.insert(body.end(), 3, std::byte{0});
  append_length(body, kPair.size());
  append(body, kPair);
  bytes.push_back(std::byte{kCommand});
  append_length(bytes, body.size());
  bytes.insert(bytes.end(), body.begin(), body.end());
  return bytes;
}

/// The greeting and READY.
std::span<const std::byte> introduction() {
  static const std::vector<std::byte> bytes = make_introduction();
  return bytes;
}

std::size_t big_endian(std::span<const std::byte> bytes) {
  std::uint64_t value = 0;
  for (const std::byte byte : bytes) value = value << 8 | std::to_integer<std::uint64_t>(byte);
  return value;
}

std::string_view text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

/// The first `count` bytes, which are taken away; nothing where there are fewer.
std::optional<std::span<const std::byte>> take(std::span<const std::byte>& bytes,
                                               std::size_t count) {
  if (count > bytes.size()) return std::nullopt;
  const auto taken = bytes.first(count);
  bytes = bytes.subspan(count);
  return taken;
}
std::optional<std::span<const std::byte>> take_with_length(std::span<const std::byte>& bytes,
                                                           std::size_t length_bytes) {
  const auto length = take(bytes, length_bytes);
  return length ? take(bytes, big_endian(*length)) : std::nullopt;
}

bool is_ready_of_a_pair(std::span<const std::byte> body) {
  const auto name = take_with_length(body, 1);
  if (!name || text_of(*name) != kReadyName) return false;
  bool is_pair = false;
  while (!body.empty()) {
    const auto property = take_with_length(body, 1);
    const auto value = take_with_length(body, 4);
    if (!property || !value) return false;
    if (text_of(*property) == kSocketType) is_pair = text_of(*value) == kPair;
  }
  return is_pair;
}

/// sendmsg() takes a mutable pointer, and only reads.
iovec to_iovec(std::span<const std::byte> bytes) {
  return {const_cast<std::byte*>(bytes.data()), bytes.size()};
}

Status closed_by_peer() {
  return {StatusCode::kUnavailable, "the peer closed the session's data connection"};
}

Status no_zmtp(std::string_view what) {
  return {StatusCode::kProtocolError, "on the data connection: {}", what};
}

}  // namespace

ZmtpSocket::ZmtpSocket(SocketStream connection)
    : stream_(std::move(connection)), stash_(kStashBytes) {
  // What one of these fails at is the other kind of socket, and nothing depends on either.
  const int on = 1;
  (void)::setsockopt(stream_.fd(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
  sockaddr_storage own{};
  socklen_t size = sizeof(own);
  if (::getsockname(stream_.fd(), reinterpret_cast<sockaddr*>(&own), &size) == 0 &&
      own.ss_family == AF_UNIX) {
    (void)::setsockopt(stream_.fd(), SOL_SOCKET, SO_SNDBUF, &kSendBuffer, sizeof(kSendBuffer));
  }
}

void ZmtpSocket::queue(std::span<const std::byte> bytes, std::shared_ptr<const void> owner) {
  Outgoing frame;
  const bool is_long = bytes.size() > 255;
  frame.head[0] = static_cast<std::byte>(is_long ? kLong : 0);
  frame.head_bytes = is_long ? kLongHeadBytes : kShortHeadBytes;
  for (std::size_t i = 1; i < frame.head_bytes; ++i)
    frame.head[i] = static_cast<std::byte>(bytes.size() >> (8 * (frame.head_bytes - 1 - i)));
  frame.bytes = bytes;
  frame.owner = std::move(owner);
  outgoing_.push_back(std::move(frame));
}

void ZmtpSocket::sent(std::size_t count) {
  sent_of_first_ += count;
  while (!outgoing_.empty() && sent_of_first_ >= outgoing_.front().size()) {
    sent_of_first_ -= outgoing_.front().size();
    outgoing_.pop_front();
  }
}

/// kBusy: not now, or (closed_) never.
Result<std::size_t> ZmtpSocket::write(std::span<const iovec> parts) {
  auto taken = stream_.send(parts);
  const StatusCode code = taken.status().code();
  if (code == StatusCode::kUnavailable) closed_ = true;
  if (code == StatusCode::kUnavailable || code == StatusCode::kBusy)
    return Status(StatusCode::kBusy, "no room to send");
  return taken;
}

/// kDeadlineExceeded: the peer has not greeted yet. kUnavailable: it never will, or has gone before
/// it was greeted.
Status ZmtpSocket::shake_hands() {
  for (auto rest = introduction().subspan(introduced_); !rest.empty();) {
    iovec part = to_iovec(rest);
    const auto taken = write({&part, 1});
    if (!taken.ok() && closed_) return closed_by_peer();
    if (taken.status().code() == StatusCode::kBusy) break;
    RETURN_IF_ERROR(taken.status());
    introduced_ += *taken;
    rest = rest.subspan(*taken);
  }
  if (const Status left = flush_stream(); left.code() != StatusCode::kBusy) RETURN_IF_ERROR(left);
  while (next_ != Next::kFrames) {
    ASSIGN_OR_RETURN(const bool taken, next_ == Next::kGreeting ? take_greeting() : take_ready());
    if (taken) continue;
    const bool was_open = stream_.is_open();
    const Status filled = fill({});
    // The keys were shown just now: there is room for our greeting.
    if (filled.code() == StatusCode::kDeadlineExceeded && !was_open && stream_.is_open())
      return shake_hands();
    RETURN_IF_ERROR(filled);
  }
  if (introduced_ == introduction().size()) return {};
  return {StatusCode::kDeadlineExceeded, "no room to greet"};
}

Status ZmtpSocket::flush() {
  const Status met = shake_hands();
  if (met.code() == StatusCode::kDeadlineExceeded || met.code() == StatusCode::kUnavailable) {
    if (outgoing_.empty()) return {};
    return {StatusCode::kBusy, met.message()};
  }
  RETURN_IF_ERROR(met);
  while (!outgoing_.empty()) {
    std::array<iovec, 2 * kFramesAtOnce> parts;
    std::size_t count = 0;
    std::size_t skip = sent_of_first_;
    const auto add = [&](std::span<const std::byte> bytes) {
      const std::size_t skipped = std::min(skip, bytes.size());
      skip -= skipped;
      bytes = bytes.subspan(skipped);
      if (!bytes.empty()) parts[count++] = to_iovec(bytes);
    };
    for (std::size_t i = 0; i < std::min(outgoing_.size(), kFramesAtOnce); ++i) {
      add(std::span(outgoing_[i].head).first(outgoing_[i].head_bytes));
      add(outgoing_[i].bytes);
    }
    ASSIGN_OR_RETURN(const std::size_t taken, write(std::span(parts).first(count)));
    sent(taken);
  }
  return flush_stream();
}

/// As write().
Status ZmtpSocket::flush_stream() {
  Status left = stream_.flush();
  if (left.code() != StatusCode::kUnavailable) return left;
  closed_ = true;
  return {StatusCode::kBusy, "no room to send"};
}

Status ZmtpSocket::send(std::span<const std::byte> bytes, Deadline deadline) {
  auto copy = std::make_shared<const std::vector<std::byte>>(bytes.begin(), bytes.end());
  queue(*copy, copy);
  for (;;) {
    Status sent = flush();
    if (sent.code() != StatusCode::kBusy || deadline.expired() || disconnected()) return sent;
    (void)poll(Wake::kWritable, deadline);
  }
}

/// More of what comes: into `place`, and what is behind that into the stash.
Status ZmtpSocket::fill(std::span<std::byte> place) {
  if (begin_ == end_) begin_ = end_ = 0;
  if (place.empty() && end_ == stash_.size()) {
    std::memmove(stash_.data(), stash_.data() + begin_, end_ - begin_);
    end_ -= std::exchange(begin_, 0);
  }
  const std::span<std::byte> rest = std::span(stash_).subspan(end_);
  std::array<iovec, 2> parts{{{place.data(), place.size()}, {rest.data(), rest.size()}}};
  const auto came = stream_.receive(parts);
  if (came.status().code() == StatusCode::kBusy)
    return {StatusCode::kDeadlineExceeded, "no message came"};
  if (came.status().code() == StatusCode::kUnavailable) {
    closed_ = true;
    return closed_by_peer();
  }
  RETURN_IF_ERROR(came.status());
  const std::size_t in_place = std::min(*came, place.size());
  placed_ += in_place;
  end_ += *came - in_place;
  return {};
}

// Each of these: false, where more has to come first.

Result<bool> ZmtpSocket::take_greeting() {
  const auto bytes = stashed();
  if (bytes.size() < kGreetingBytes) return false;
  std::array<char, kMechanismBytes> mechanism{};
  std::copy(kMechanism.begin(), kMechanism.end(), mechanism.begin());
  const bool is_ours = bytes[0] == std::byte{0xff} && bytes[9] == std::byte{0x7f} &&
                       bytes[kMajorAt] >= std::byte{3} &&
                       std::memcmp(&bytes[kMechanismAt], mechanism.data(), kMechanismBytes) == 0;
  if (!is_ours) return no_zmtp("no greeting of ZMTP 3 without a security mechanism");
  begin_ += kGreetingBytes;
  next_ = Next::kReady;
  return true;
}

Result<bool> ZmtpSocket::take_ready() {
  const auto bytes = stashed();
  if (bytes.size() < kShortHeadBytes) return false;
  if (bytes[0] != std::byte{kCommand}) return no_zmtp("something else than READY");
  const std::size_t size = std::to_integer<std::size_t>(bytes[1]);
  if (bytes.size() < kShortHeadBytes + size) return false;
  if (!is_ready_of_a_pair(bytes.subspan(kShortHeadBytes, size)))
    return no_zmtp("no READY of a PAIR");
  begin_ += kShortHeadBytes + size;
  next_ = Next::kFrames;
  return true;
}

Result<bool> ZmtpSocket::take_head() {
  const auto bytes = stashed();
  if (bytes.empty()) return false;
  const auto flags = std::to_integer<unsigned>(bytes[0]);
  if ((flags & kMore) != 0) return no_zmtp("a message of several parts");
  if ((flags & ~kLong) != 0) return no_zmtp("a command, or a frame of an unknown kind");
  const std::size_t head_bytes = (flags & kLong) != 0 ? kLongHeadBytes : kShortHeadBytes;
  if (bytes.size() < head_bytes) return false;
  frame_bytes_ = big_endian(bytes.subspan(1, head_bytes - 1));
  begin_ += head_bytes;
  has_head_ = true;
  place_ = nullptr;
  placed_ = 0;
  return true;
}

Result<bool> ZmtpSocket::take_frame(std::span<std::byte> into) {
  if (frame_bytes_ > into.size()) {
    return Status(StatusCode::kProtocolError,
                  "on the data connection: a frame of {} bytes, expected at most {}", frame_bytes_,
                  into.size());
  }
  const bool is_small = frame_bytes_ <= kStashBytes;
  if (is_small && stashed().size() < frame_bytes_) return false;
  CHECK(place_ == nullptr || place_ == into.data());
  const auto bytes = stashed().first(std::min(stashed().size(), frame_bytes_ - placed_));
  if (!bytes.empty()) std::memcpy(into.data() + placed_, bytes.data(), bytes.size());
  begin_ += bytes.size();
  placed_ += bytes.size();
  place_ = into.data();
  if (placed_ < frame_bytes_) return false;
  has_head_ = false;
  place_ = nullptr;
  return true;
}

Result<std::size_t> ZmtpSocket::try_receive(std::span<std::byte> into) {
  RETURN_IF_ERROR(shake_hands());
  for (;;) {
    const bool is_frame = has_head_;
    ASSIGN_OR_RETURN(const bool taken, is_frame ? take_frame(into) : take_head());
    if (taken && is_frame) return frame_bytes_;
    if (taken) continue;
    // A large frame is read into its place.
    const bool direct = place_ != nullptr;
    RETURN_IF_ERROR(
        fill(direct ? into.subspan(placed_, frame_bytes_ - placed_) : std::span<std::byte>()));
  }
}

Result<std::size_t> ZmtpSocket::receive_into(std::span<std::byte> into, Deadline deadline) {
  for (;;) {
    const auto came = try_receive(into);
    if (came.status().code() != StatusCode::kDeadlineExceeded || deadline.expired()) return came;
    (void)poll(Wake::kReadable, deadline);
  }
}

Status ZmtpSocket::poll(Wake wake, Deadline deadline, int other) const {
  const bool looks = wake != Wake::kNothing;
  int events = (wake == Wake::kWritable ? 0 : POLLIN) | (wake == Wake::kReadable ? 0 : POLLOUT);
  // Before its greeting there is nothing to be sent, whatever room there is.
  if (next_ != Next::kFrames) events = POLLIN;
  if (!looks) events = 0;
  if ((events & POLLIN) != 0 && stream_.holds_bytes()) return {};
  do {
    // A negative descriptor is passed over.
    pollfd waiting[] = {{looks ? stream_.fd() : -1, stream_.events(static_cast<short>(events)), 0},
                        {other, POLLIN, 0}};
    constexpr std::chrono::milliseconds kLongest{1000};
    const auto left =
        std::chrono::ceil<std::chrono::milliseconds>(deadline.slice(kLongest).remaining());
    if (::poll(waiting, 2, static_cast<int>(left.count())) > 0) return {};
  } while (!deadline.expired());
  return {StatusCode::kDeadlineExceeded, "nothing happened"};
}

bool ZmtpSocket::disconnected() const {
  if (closed_) return true;
  pollfd ended{stream_.fd(), POLLRDHUP, 0};
  return ::poll(&ended, 1, 0) > 0;
}

}  // namespace airlock
