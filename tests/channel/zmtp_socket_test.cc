#include "runtime/channel/zmtp_socket.h"

#include <gtest/gtest.h>
#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>
#include <zmq.hpp>

#include "proto/limits.h"
#include "tests/channel/channel_rigs.h"

namespace airlock {
namespace {

using testing_rigs::eventually;
using testing_rigs::Listener;
using testing_rigs::shortly;
using testing_rigs::SocketPair;
using testing_rigs::soon;
using testing_rigs::Transport;

using Bytes = std::vector<std::byte>;
using namespace std::string_literals;

std::span<const std::byte> bytes_of(const std::string& text) {
  return std::as_bytes(std::span(text));
}
std::string text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}
Status send_text(ZmtpSocket& socket, const std::string& text) {
  return socket.send(bytes_of(text), soon());
}
Result<std::string> receive_text(ZmtpSocket& socket, Deadline deadline) {
  std::array<std::byte, 64> into;
  ASSIGN_OR_RETURN(const std::size_t size, socket.receive_into(into, deadline));
  return text_of({into.data(), size});
}
/// Bytes that tell where they belong.
std::shared_ptr<const Bytes> numbered(std::size_t size) {
  auto bytes = std::make_shared<Bytes>(size);
  for (std::size_t i = 0; i < size; ++i) (*bytes)[i] = static_cast<std::byte>(i * 31 + i / 4096);
  return bytes;
}

TEST(ZmtpSocket, carries_frames_both_ways) {
  for (const Transport transport : {Transport::kIpc, Transport::kTcp}) {
    SocketPair pair(transport);
    ASSERT_TRUE(send_text(pair.runner, "there").ok());
    EXPECT_EQ(receive_text(pair.server, soon()).value(), "there");
    ASSERT_TRUE(send_text(pair.server, "back").ok());
    EXPECT_EQ(receive_text(pair.runner, soon()).value(), "back");
  }
}

// Around the sizes at which the length takes another form, and at which a frame is read in place.
TEST(ZmtpSocket, carries_frames_of_every_size_while_both_sides_send) {
  for (const Transport transport : {Transport::kIpc, Transport::kTcp}) {
    SocketPair pair(transport);
    std::vector<std::shared_ptr<const Bytes>> frames;
    for (const std::size_t size :
         {0UL, 1UL, 255UL, 256UL, 16383UL, 16384UL, 16385UL, 100000UL, limits::kFrameBytes, 3UL})
      frames.push_back(numbered(size));
    for (ZmtpSocket* const end : {&pair.server, &pair.runner}) {
      for (const auto& frame : frames) end->queue(*frame, frame);
    }
    Bytes into(limits::kFrameBytes);
    std::array<Bytes, 2> places{into, into};
    std::array<std::size_t, 2> came{};
    const Deadline deadline = soon();
    while (std::ranges::min(came) < frames.size() && !deadline.expired()) {
      for (std::size_t i = 0; i < 2; ++i) {
        ZmtpSocket& end = i == 0 ? pair.server : pair.runner;
        const Status sent = end.flush();
        ASSERT_TRUE(sent.ok() || sent.code() == StatusCode::kBusy) << sent.to_string();
        const auto size = end.receive_into(places[i], Deadline::now());
        if (size.status().code() == StatusCode::kDeadlineExceeded) continue;
        ASSERT_TRUE(size.ok()) << size.status().to_string();
        ASSERT_LT(came[i], frames.size());
        const Bytes& expected = *frames[came[i]++];
        ASSERT_EQ(*size, expected.size());
        EXPECT_TRUE(std::equal(expected.begin(), expected.end(), places[i].begin()));
      }
    }
    EXPECT_EQ(came, (std::array{frames.size(), frames.size()}));
    EXPECT_FALSE(pair.server.sending() || pair.runner.sending());
  }
}

TEST(ZmtpSocket, takes_what_came_before_the_end) {
  SocketPair pair(Transport::kIpc);
  EXPECT_FALSE(pair.server.disconnected());
  ASSERT_TRUE(send_text(pair.runner, "last words").ok());
  { const ZmtpSocket gone = std::move(pair.runner); }
  pair.runner_connection.reset();
  EXPECT_TRUE(eventually([&] { return pair.server.disconnected(); }));
  EXPECT_EQ(receive_text(pair.server, soon()).value(), "last words");
  EXPECT_EQ(receive_text(pair.server, soon()).status().code(), StatusCode::kUnavailable);
  EXPECT_EQ(send_text(pair.server, "too late").code(), StatusCode::kBusy);
}

TEST(ZmtpSocket, what_is_not_read_is_backpressure) {
  SocketPair pair(Transport::kIpc);
  const auto frame = numbered(limits::kFrameBytes);
  for (ZmtpSocket* const socket : {&pair.server, &pair.runner}) {
    EXPECT_EQ(socket->send(*frame, shortly()).code(), StatusCode::kBusy);
    EXPECT_TRUE(socket->sending());
  }
}

TEST(ZmtpSocket, lets_go_of_a_frame_that_has_left) {
  SocketPair pair(Transport::kIpc);
  auto buffer = std::make_shared<const Bytes>(1 << 20, std::byte{5});
  const std::weak_ptr<const Bytes> watch = buffer;
  const std::span<const std::byte> bytes = *buffer;
  pair.runner.queue(bytes, std::exchange(buffer, nullptr));
  Bytes into(1 << 20);
  Result<std::size_t> size = Status(StatusCode::kDeadlineExceeded, "");
  for (const Deadline end = soon(); !size.ok() && !end.expired();) {
    EXPECT_FALSE(watch.expired() && pair.runner.sending());
    (void)pair.runner.flush();
    size = pair.server.receive_into(into, Deadline::now());
  }
  ASSERT_TRUE(size.ok());
  EXPECT_EQ(into.back(), std::byte{5});
  EXPECT_TRUE(watch.expired());
}

std::atomic<int> interruptions{0};

TEST(ZmtpSocket, no_signal_ends_a_wait) {
  struct sigaction action {};
  struct sigaction before {};
  interruptions = 0;
  action.sa_handler = [](int) { ++interruptions; };
  ASSERT_EQ(::sigaction(SIGUSR1, &action, &before), 0);
  SocketPair pair(Transport::kIpc);
  std::atomic<bool> ended{false};
  Status status;
  std::thread waiting([&] {
    status = receive_text(pair.server, soon()).status();
    ended = true;
  });
  while (interruptions < 100 && !ended) {
    ::pthread_kill(waiting.native_handle(), SIGUSR1);
    std::this_thread::yield();
  }
  EXPECT_FALSE(ended);
  EXPECT_TRUE(send_text(pair.runner, "at last").ok());
  waiting.join();
  ::sigaction(SIGUSR1, &before, nullptr);
  EXPECT_TRUE(status.ok()) << status.to_string();
}

TEST(ZmtpSocket, refuses_a_frame_larger_than_its_place) {
  SocketPair pair(Transport::kIpc);
  ASSERT_TRUE(send_text(pair.runner, "12345").ok());
  std::array<std::byte, 4> into;
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(pair.server.receive_into(into, soon()).status().code(), StatusCode::kProtocolError);
  }
}

/// A peer that writes bytes of its own, and the socket that reads them.
struct RawPeer {
  UniqueFd fd;
  std::optional<ZmtpSocket> socket;

  RawPeer() {
    const Listener listener(Transport::kIpc);
    fd = listener.connect();
    socket.emplace(
        SocketStream(UniqueFd(::accept4(listener.fd.get(), nullptr, nullptr, SOCK_NONBLOCK))));
  }
  void write(const std::string& text) const {
    ASSERT_EQ(::write(fd.get(), text.data(), text.size()), static_cast<ssize_t>(text.size()));
  }
  Status receive() {
    std::array<std::byte, 300> into;
    return socket->receive_into(into, Deadline::now()).status();
  }
};

const std::string kGreeting =
    "\xff"s + std::string(8, '\0') + "\x7f\x03" + '\0' + "NULL" + std::string(48, '\0');
const std::string kReady = "\x04\x1a\x05READY\x0bSocket-Type\0\0\0\x04PAIR"s;

std::string with(std::string text, std::size_t at, char byte) {
  text[at] = byte;
  return text;
}

TEST(ZmtpSocket, takes_a_handshake_and_a_frame_byte_by_byte) {
  RawPeer peer;
  for (const char byte : kGreeting + kReady + "\x00\x02hi"s) {
    EXPECT_EQ(peer.receive().code(), StatusCode::kDeadlineExceeded);
    peer.write(std::string(1, byte));
  }
  EXPECT_EQ(receive_text(*peer.socket, soon()).value(), "hi");
}

TEST(ZmtpSocket, refuses_what_is_no_greeting_of_ours) {
  ASSERT_EQ(kGreeting.size(), 64U);
  for (const auto& greeting :
       {with(kGreeting, 0, 'x'), with(kGreeting, 9, '\0'), with(kGreeting, 10, '\1'),
        with(kGreeting, 12, 'C'), with(kGreeting, 16, 'x'), std::string(64, '\xff')}) {
    RawPeer peer;
    peer.write(greeting);
    EXPECT_EQ(peer.receive().code(), StatusCode::kProtocolError);
  }
}

TEST(ZmtpSocket, refuses_what_is_no_ready_of_a_pair) {
  for (const auto& ready :
       {"\x00\x05READY"s, "\x06\x00\x00\x00\x00\x00\x00\x00\x05READY"s, "\x04\x00"s,
        "\x04\x01\x05"s, "\x04\x06\x05READY"s,
        "\x04\x06\x05"
        "ERROR"s,
        with(kReady, kReady.size() - 1, 'S'), with(kReady, 24, '\xff'), with(kReady, 8, '\xff'),
        with(kReady, 21, '\xff'), "\x04\x1b\x05READY\x0bSocket-Type\0\0\0\x04PAIRx"s}) {
    RawPeer peer;
    peer.write(kGreeting + ready);
    EXPECT_EQ(peer.receive().code(), StatusCode::kProtocolError) << testing::PrintToString(ready);
  }
}

// Each at once, and without a byte of memory: nothing of the frame has come yet.
TEST(ZmtpSocket, refuses_what_is_no_frame_of_ours) {
  for (const auto& head : {"\x01\x02"s, "\x03\0\0\0\0\0\0\0\x02"s, "\x04\x05"s, "\x08\x01"s,
                           "\xff\xff"s, "\x02\0\0\0\0\x10\0\0\0"s,
                           "\x02\xff\xff\xff\xff\xff\xff\xff\xff"s, "\x02\0\0\0\0\0\0\x01\x2d"s}) {
    RawPeer peer;
    peer.write(kGreeting + kReady + head);
    for (int i = 0; i < 2; ++i) {
      EXPECT_EQ(peer.receive().code(), StatusCode::kProtocolError) << testing::PrintToString(head);
    }
  }
}

TEST(ZmtpSocket, says_that_a_peer_left_before_it_was_greeted) {
  RawPeer peer;
  peer.write(kGreeting + kReady);
  peer.fd.reset();
  EXPECT_EQ(peer.receive().code(), StatusCode::kUnavailable);
}

TEST(ZmtpSocket, sends_nothing_to_a_peer_that_does_not_greet) {
  RawPeer silent;
  const Deadline patience = shortly();
  EXPECT_EQ(silent.socket->send(bytes_of("x"), patience).code(), StatusCode::kBusy);
  EXPECT_EQ(silent.socket->poll(ZmtpSocket::Wake::kWritable, shortly()).code(),
            StatusCode::kDeadlineExceeded);
  RawPeer junk;
  junk.write(std::string(64, 'x'));
  EXPECT_EQ(junk.socket->send(bytes_of("x"), soon()).code(), StatusCode::kProtocolError);
}

/// libzmq's own PAIR at the other end, as listener or as the one that connects.
struct LibzmqPeer {
  zmq::context_t context;
  zmq::socket_t libzmq{context, zmq::socket_type::pair};
  std::optional<ZmtpSocket> ours;

  LibzmqPeer(Transport transport, bool libzmq_listens) {
    libzmq.set(zmq::sockopt::linger, 0);
    libzmq.set(zmq::sockopt::rcvtimeo, 60'000);
    Listener listener(transport);
    if (libzmq_listens) {
      ours.emplace(SocketStream(listener.connect()));
      libzmq.set(zmq::sockopt::use_fd, listener.fd.get());
      libzmq.bind(listener.endpoint);
      (void)listener.fd.release();
    } else {
      libzmq.connect(listener.endpoint);
      pollfd knock{listener.fd.get(), POLLIN, 0};
      CHECK(::poll(&knock, 1, 60'000) == 1);
      ours.emplace(
          SocketStream(UniqueFd(::accept4(listener.fd.get(), nullptr, nullptr, SOCK_NONBLOCK))));
    }
  }
};

TEST(ZmtpSocket, speaks_with_libzmq) {
  for (const auto& [transport, libzmq_listens] : {std::pair(Transport::kIpc, true),
                                                  {Transport::kIpc, false},
                                                  {Transport::kTcp, true},
                                                  {Transport::kTcp, false}}) {
    LibzmqPeer peer(transport, libzmq_listens);
    for (const std::size_t size : {0UL, 5UL, 255UL, 256UL, 100000UL, limits::kFrameBytes}) {
      const auto frame = numbered(size);
      ASSERT_TRUE(peer.ours->send(*frame, soon()).ok()) << size;
      zmq::message_t there;
      ASSERT_TRUE(peer.libzmq.recv(there).has_value()) << size;
      ASSERT_EQ(there.size(), size);
      EXPECT_TRUE(size == 0 || std::memcmp(there.data(), frame->data(), size) == 0);
      ASSERT_TRUE(peer.libzmq.send(there, zmq::send_flags::none).has_value());
      Bytes back(size + 1);
      const auto came = peer.ours->receive_into(back, soon());
      ASSERT_TRUE(came.ok()) << came.status().to_string();
      ASSERT_EQ(*came, size);
      EXPECT_TRUE(std::equal(frame->begin(), frame->end(), back.begin()));
    }
  }
}

// What libzmq itself would assemble, however much it is.
TEST(ZmtpSocket, refuses_a_message_of_several_parts_of_libzmq) {
  LibzmqPeer peer(Transport::kIpc, true);
  ASSERT_TRUE(send_text(*peer.ours, "so that it has greeted").ok());
  ASSERT_TRUE(peer.libzmq.send(zmq::message_t(10), zmq::send_flags::sndmore).has_value());
  ASSERT_TRUE(peer.libzmq.send(zmq::message_t(10), zmq::send_flags::none).has_value());
  EXPECT_EQ(receive_text(*peer.ours, soon()).status().code(), StatusCode::kProtocolError);
}

}  // namespace
}  // namespace airlock
