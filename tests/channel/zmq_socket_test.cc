#include "runtime/channel/zmq_socket.h"

#include <gtest/gtest.h>
#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/channel/channel_rigs.h"

namespace airlock {
namespace {

using testing_rigs::Listener;
using testing_rigs::shortly;
using testing_rigs::SocketPair;
using testing_rigs::soon;
using testing_rigs::Transport;

std::span<const std::byte> bytes_of(const std::string& text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}
std::string text_of(std::span<const std::byte> bytes) {
  std::string text;
  for (const std::byte b : bytes) text.push_back(static_cast<char>(b));
  return text;
}
Status send_text(ZmqSocket& socket, const std::string& text) {
  return socket.send(bytes_of(text), soon());
}
Result<std::string> receive_text(ZmqSocket& socket, Deadline deadline) {
  std::array<std::byte, 64> into;
  ASSIGN_OR_RETURN(const std::size_t size, socket.receive_into(into, deadline));
  return text_of({into.data(), size});
}

/// Waits, with a watchdog, until `condition` holds.
template <typename Condition>
bool eventually(Condition condition) {
  for (const Deadline end = soon(); !end.expired(); std::this_thread::yield()) {
    if (condition()) return true;
  }
  return false;
}

TEST(ZmqSocket, carries_frames_both_ways) {
  for (const Transport transport : {Transport::kIpc, Transport::kTcp}) {
    SocketPair pair(transport);
    ASSERT_TRUE(send_text(pair.runner, "there").ok());
    EXPECT_EQ(receive_text(pair.server, soon()).value(), "there");
    ASSERT_TRUE(send_text(pair.server, "back").ok());
    EXPECT_EQ(receive_text(pair.runner, soon()).value(), "back");
  }
}

TEST(ZmqSocket, knows_when_a_peer_came_and_went) {
  SocketPair pair(Transport::kIpc);
  EXPECT_TRUE(eventually([&] { return pair.server.connected(); }));
  EXPECT_TRUE(eventually([&] { return pair.runner.connected(); }));
  EXPECT_FALSE(pair.server.disconnected());
  { const ZmqSocket gone = std::move(pair.runner); }
  EXPECT_TRUE(eventually([&] { return pair.server.disconnected(); }));
  EXPECT_FALSE(pair.server.connected());
}

TEST(ZmqSocket, knows_when_nobody_listens) {
  SocketPair pair(Transport::kIpc);
  ZmqSocket lonely = pair.make();
  ASSERT_TRUE(lonely.connect("ipc://" + testing_rigs::fresh_path()).ok());
  EXPECT_TRUE(eventually([&] { return lonely.disconnected(); }));
}

TEST(ZmqSocket, full_queue_is_backpressure_at_both_ends) {
  SocketPair pair(Transport::kIpc);
  ASSERT_TRUE(eventually([&] { return pair.server.connected() && pair.runner.connected(); }));
  const auto big = std::make_shared<std::vector<std::byte>>(1 << 20);
  for (ZmqSocket* const socket : {&pair.server, &pair.runner}) {
    Status status;
    for (int i = 0; i < 1000 && status.ok(); ++i) {
      status = socket->send_shared(*big, big, shortly());
    }
    EXPECT_EQ(status.code(), StatusCode::kBusy);
  }
}

TEST(ZmqSocket, lent_buffer_goes_home_once_it_was_sent) {
  SocketPair pair(Transport::kIpc);
  auto buffer = std::make_shared<std::vector<std::byte>>(1 << 20, std::byte{5});
  const std::weak_ptr<std::vector<std::byte>> watch = buffer;
  ASSERT_TRUE(pair.runner.send_shared(*buffer, buffer, soon()).ok());
  buffer.reset();
  std::vector<std::byte> into(1 << 20);
  auto size = pair.server.receive_into(into, soon());
  ASSERT_TRUE(size.ok());
  EXPECT_EQ(*size, into.size());
  EXPECT_EQ(into.back(), std::byte{5});
  EXPECT_TRUE(eventually([&] { return watch.expired(); }));
}

TEST(ZmqSocket, lent_buffer_that_is_refused_goes_home_once) {
  SocketPair pair(Transport::kIpc);
  // Nobody connects it: there is no room for anything.
  ZmqSocket lonely = pair.make();
  const std::vector<std::byte> buffer(1 << 20);
  int returned = 0;
  std::shared_ptr<const void> owner(buffer.data(), [&](const void*) { ++returned; });
  EXPECT_EQ(lonely.send_shared(buffer, std::move(owner), shortly()).code(), StatusCode::kBusy);
  EXPECT_EQ(returned, 1);
}

std::atomic<int> interruptions{0};

TEST(ZmqSocket, no_signal_ends_a_wait) {
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

TEST(ZmqSocket, says_that_the_context_ends) {
  auto context = ZmqContext::create().value();
  auto made = ZmqSocket::create(*context);
  ASSERT_TRUE(made.ok());
  Status received;
  Status sent;
  Status polled;
  bool connected = true;
  std::thread user([&, socket = std::move(made).value()]() mutable {
    received = receive_text(socket, soon()).status();
    sent = send_text(socket, "x");
    polled = socket.poll(ZmqSocket::Wake::kReadable, soon());
    connected = socket.connected();
  });
  context.reset();
  user.join();
  EXPECT_EQ(received.code(), StatusCode::kCancelled) << received.to_string();
  EXPECT_EQ(sent.code(), StatusCode::kCancelled) << sent.to_string();
  EXPECT_EQ(polled.code(), StatusCode::kCancelled) << polled.to_string();
  EXPECT_FALSE(connected);
}

TEST(ZmqSocket, refuses_a_frame_larger_than_its_place) {
  SocketPair pair(Transport::kIpc);
  ASSERT_TRUE(send_text(pair.runner, "12345").ok());
  std::array<std::byte, 4> into;
  EXPECT_EQ(pair.server.receive_into(into, soon()).status().code(), StatusCode::kProtocolError);
}

TEST(ZmqSocket, disconnects_a_peer_with_a_frame_over_the_limit) {
  SocketPair pair(Transport::kTcp);
  const auto huge = std::make_shared<std::vector<std::byte>>(limits::kFrameBytes + 1);
  ASSERT_TRUE(pair.runner.send_shared(*huge, huge, soon()).ok());
  EXPECT_TRUE(eventually([&] { return pair.runner.disconnected(); }));
  EXPECT_EQ(receive_text(pair.server, Deadline::now()).status().code(),
            StatusCode::kDeadlineExceeded);
}

TEST(ZmqSocket, names_an_endpoint_that_it_cannot_use) {
  SocketPair pair(Transport::kTcp);
  ZmqSocket second = pair.make();
  const Status status = second.bind("nonsense", Listener(Transport::kTcp).fd);
  EXPECT_FALSE(status.ok());
  EXPECT_NE(status.message().find("nonsense"), std::string::npos);
  EXPECT_FALSE(second.connect("nonsense://").ok());
}

}  // namespace
}  // namespace airlock
