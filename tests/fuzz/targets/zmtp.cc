// What a peer sends on a data connection, in pieces of some size: at most so large a frame, the
// size of the pieces, the bytes.

#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <chrono>

#include "base/check.h"
#include "base/file.h"
#include "runtime/channel/zmtp_socket.h"
#include "tests/fuzz/take.h"
#include "tests/fuzz/target.h"

namespace airlock::fuzz {
namespace {

/// More than a socket has room for would need a second thread.
constexpr std::size_t kMostInput = 65536;

std::array<UniqueFd, 2> connect_pair() {
  std::array<int, 2> ends{};
  CHECK(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends.data()) == 0);
  return {UniqueFd(ends[0]), UniqueFd(ends[1])};
}

void give(const UniqueFd& peer, std::span<const std::byte> bytes) {
  CHECK(::send(peer.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL) ==
        static_cast<ssize_t>(bytes.size()));
}

Bytes drain(const UniqueFd& peer) {
  Bytes bytes(kMostInput);
  const ssize_t count = ::recv(peer.get(), bytes.data(), bytes.size(), MSG_DONTWAIT);
  CHECK(count > 0);
  bytes.resize(static_cast<std::size_t>(count));
  return bytes;
}

/// What was made of a peer's bytes.
struct Came {
  std::vector<Bytes> frames;
  /// kDeadlineExceeded: the next one is not all there yet.
  Status end;
};

/// Takes all frames that are there.
void take_frames(ZmtpSocket& socket, Bytes& place, Came& came) {
  for (;;) {
    const auto bytes = socket.receive_into(place, Deadline::after(std::chrono::seconds(0)));
    came.end = bytes.status();
    if (!bytes.ok()) return;
    came.frames.emplace_back(place.begin(), place.begin() + static_cast<std::ptrdiff_t>(*bytes));
  }
}

Came receive(std::span<const std::byte> bytes, std::size_t piece, std::size_t capacity) {
  auto [own, peer] = connect_pair();
  ZmtpSocket socket{SocketStream(std::move(own))};
  Bytes place(capacity);
  Came came;
  do {
    const auto next = bytes.first(std::min(piece, bytes.size()));
    if (!next.empty()) give(peer, next);
    bytes = bytes.subspan(next.size());
    take_frames(socket, place, came);
  } while (!bytes.empty() && came.end.code() == StatusCode::kDeadlineExceeded);
  return came;
}

/// ZMTP 3.0 once more, the plain way: the frames behind an introduction.
std::vector<Bytes> frames_of(std::span<const std::byte> bytes, std::size_t capacity) {
  std::vector<Bytes> frames;
  while (bytes.size() >= 2) {
    const auto kind = std::to_integer<unsigned>(bytes[0]);
    const std::size_t head = kind == 2 ? 9 : 2;
    if ((kind != 0 && kind != 2) || bytes.size() < head) break;
    std::uint64_t size = 0;
    for (std::size_t i = 1; i < head; ++i) size = size * 256 + std::to_integer<unsigned>(bytes[i]);
    if (size > capacity || size > bytes.size() - head) break;
    const auto body = bytes.subspan(head, size);
    frames.emplace_back(body.begin(), body.end());
    bytes = bytes.subspan(head + size);
  }
  return frames;
}

/// What an end of ours sends: its introduction, and these frames.
Bytes sent_by_us(const std::vector<Bytes>& frames) {
  auto [own, peer] = connect_pair();
  auto [other, other_peer] = connect_pair();
  ZmtpSocket socket{SocketStream(std::move(own))};
  ZmtpSocket greeter{SocketStream(std::move(other))};
  CHECK(greeter.flush().ok());
  give(peer, drain(other_peer));
  for (const Bytes& frame : frames) socket.queue(frame, nullptr);
  CHECK(socket.flush().ok());
  return drain(peer);
}

Bytes input_of(std::uint16_t capacity, std::uint8_t piece, const Bytes& bytes) {
  Bytes input;
  put(input, capacity);
  put(input, piece);
  input.insert(input.end(), bytes.begin(), bytes.end());
  return input;
}

std::vector<Bytes> seeds() {
  const Bytes large(20000, std::byte{7});
  return {input_of(100, 255, sent_by_us({})),
          input_of(1000, 0, sent_by_us({bytes_of("one"), Bytes(300), Bytes()})),
          input_of(20000, 100, sent_by_us({large, bytes_of("behind")}))};
}

bool run(std::span<const std::byte> input) {
  if (input.size() > kMostInput) return false;
  const std::size_t capacity = take<std::uint16_t>(input);
  const std::size_t piece = take<std::uint8_t>(input) + std::size_t{1};
  const Came whole = receive(input, input.size(), capacity);
  const Came pieces = receive(input, piece, capacity);
  CHECK(whole.frames == pieces.frames && whole.end.code() == pieces.end.code());

  static const Bytes kIntroduction = sent_by_us({});
  if (input.size() >= kIntroduction.size() &&
      std::ranges::equal(input.first(kIntroduction.size()), kIntroduction)) {
    CHECK(whole.frames == frames_of(input.subspan(kIntroduction.size()), capacity));
  }
  const Bytes again = sent_by_us(whole.frames);
  CHECK(receive(again, again.size(), capacity).frames == whole.frames);
  if (whole.end.code() != StatusCode::kDeadlineExceeded) {
    CHECK(whole.end.code() == StatusCode::kProtocolError);
    check_refusal(whole.end);
    return false;
  }
  return true;
}

}  // namespace

constinit const Target kZmtp = {"zmtp", seeds, run};

}  // namespace airlock::fuzz
