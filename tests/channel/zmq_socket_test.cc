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

#include "base/wake_event.h"
#include "tests/channel/channel_rigs.h"

namespace airlock {
namespace {

using testing_rigs::kToken;
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
Status send_text(ZmqSocket& socket, std::vector<std::string> parts) {
  std::vector<std::span<const std::byte>> spans;
  for (const std::string& part : parts) spans.push_back(bytes_of(part));
  return socket.send(spans, soon());
}

/// Waits, with a watchdog, until `condition` holds.
template <typename Condition>
bool eventually(Condition condition) {
  for (const Deadline end = soon(); !end.expired(); std::this_thread::yield()) {
    if (condition()) return true;
  }
  return false;
}

TEST(ZmqSocket, carries_parts_with_the_peers_identity) {
  SocketPair pair(Transport::kIpc);
  ASSERT_TRUE(send_text(pair.runner, {"one", "two"}).ok());
  auto parts = pair.server.receive(soon());
  ASSERT_TRUE(parts.ok());
  ASSERT_EQ(parts->size(), 3u);
  EXPECT_EQ(text_of((*parts)[0]), kToken);
  EXPECT_EQ(text_of((*parts)[2]), "two");
  ASSERT_TRUE(send_text(pair.server, {kToken, "back"}).ok());
  auto back = pair.runner.receive(soon());
  ASSERT_TRUE(back.ok());
  EXPECT_EQ(text_of(back->at(0)), "back");
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

TEST(ZmqSocket, dealer_knows_when_nobody_listens) {
  SocketPair pair(Transport::kIpc);
  ZmqSocket lonely = pair.make(ZmqSocketType::kDealer, "");
  ASSERT_TRUE(lonely.connect(testing_rigs::fresh_endpoint(Transport::kIpc)).ok());
  EXPECT_TRUE(eventually([&] { return lonely.disconnected(); }));
}

TEST(ZmqSocket, router_says_that_it_knows_no_such_peer) {
  SocketPair pair(Transport::kIpc);
  EXPECT_EQ(send_text(pair.server, {"nobody", "x"}).code(), StatusCode::kUnavailable);
}

TEST(ZmqSocket, full_queue_is_backpressure_at_both_types) {
  SocketPair pair(Transport::kIpc);
  ASSERT_TRUE(eventually([&] { return pair.server.connected() && pair.runner.connected(); }));
  const auto big = std::make_shared<std::vector<std::byte>>(1 << 20);
  for (auto [socket, route] : {std::pair{&pair.server, kToken}, {&pair.runner, std::string()}}) {
    Status status;
    for (int i = 0; i < 1000 && status.ok(); ++i) {
      status = socket->send_shared(route, *big, big, shortly());
    }
    EXPECT_EQ(status.code(), StatusCode::kBusy);
  }
}

TEST(ZmqSocket, lent_buffer_goes_home_once_it_was_sent) {
  SocketPair pair(Transport::kIpc);
  auto buffer = std::make_shared<std::vector<std::byte>>(1 << 20, std::byte{5});
  const std::weak_ptr<std::vector<std::byte>> watch = buffer;
  ASSERT_TRUE(pair.runner.send_shared("", *buffer, buffer, soon()).ok());
  buffer.reset();
  std::vector<std::byte> into(1 << 20);
  auto size = pair.server.receive_into(kToken, into, soon());
  ASSERT_TRUE(size.ok());
  EXPECT_EQ(*size, into.size());
  EXPECT_EQ(into.back(), std::byte{5});
  EXPECT_TRUE(eventually([&] { return watch.expired(); }));
}

TEST(ZmqSocket, lent_buffer_that_is_refused_goes_home_once) {
  SocketPair pair(Transport::kIpc);
  const std::vector<std::byte> buffer(1 << 20);
  int returned = 0;
  std::shared_ptr<const void> owner(buffer.data(), [&](const void*) { ++returned; });
  EXPECT_EQ(pair.server.send_shared("nobody", buffer, std::move(owner), soon()).code(),
            StatusCode::kUnavailable);
  EXPECT_EQ(returned, 1);
}

TEST(ZmqSocket, wait_ends_early_while_the_wake_descriptor_is_readable) {
  WakeEvent wake;
  ASSERT_TRUE(wake.check().ok());
  wake.set();
  SocketPair pair(Transport::kIpc);
  ZmqSocketOptions options;
  options.wake_fd = wake.fd();
  ZmqSocket socket = ZmqSocket::create(*pair.context, ZmqSocketType::kDealer, options).value();
  const Deadline end = soon();
  EXPECT_EQ(socket.receive(end).status().code(), StatusCode::kDeadlineExceeded);
  EXPECT_FALSE(end.expired());
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
    status = pair.server.receive(soon()).status();
    ended = true;
  });
  while (interruptions < 100 && !ended) {
    ::pthread_kill(waiting.native_handle(), SIGUSR1);
    std::this_thread::yield();
  }
  EXPECT_FALSE(ended);
  EXPECT_TRUE(send_text(pair.runner, {"at last"}).ok());
  waiting.join();
  ::sigaction(SIGUSR1, &before, nullptr);
  EXPECT_TRUE(status.ok()) << status.to_string();
}

TEST(ZmqSocket, says_that_the_context_ends) {
  auto context = ZmqContext::create().value();
  auto made = ZmqSocket::create(*context, ZmqSocketType::kDealer, {});
  ASSERT_TRUE(made.ok());
  Status received;
  Status sent;
  Status polled;
  bool connected = true;
  std::thread user([&, socket = std::move(made).value()]() mutable {
    received = socket.receive(soon()).status();
    sent = send_text(socket, {"x"});
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

TEST(ZmqSocket, drops_frames_of_strangers) {
  SocketPair pair(Transport::kIpc);
  ZmqSocket stranger = pair.make(ZmqSocketType::kDealer, "stranger");
  ASSERT_TRUE(stranger.connect(pair.endpoint).ok());
  ASSERT_TRUE(send_text(stranger, {"evil", "more", "parts"}).ok());
  ASSERT_TRUE(
      eventually([&] { return pair.server.poll(ZmqSocket::Wake::kReadable, shortly()).ok(); }));
  ASSERT_TRUE(send_text(pair.runner, {"good"}).ok());
  std::array<std::byte, 64> into;
  auto size = pair.server.receive_into(kToken, into, soon());
  ASSERT_TRUE(size.ok());
  EXPECT_EQ(text_of({into.data(), *size}), "good");
}

TEST(ZmqSocket, refuses_frames_larger_than_their_place_and_extra_parts) {
  SocketPair pair(Transport::kIpc);
  ASSERT_TRUE(send_text(pair.runner, {"12345"}).ok());
  std::array<std::byte, 4> into;
  EXPECT_EQ(pair.server.receive_into(kToken, into, soon()).status().code(),
            StatusCode::kProtocolError);
  ASSERT_TRUE(send_text(pair.runner, {"a", "b"}).ok());
  EXPECT_EQ(pair.server.receive_into(kToken, into, soon()).status().code(),
            StatusCode::kProtocolError);
  ASSERT_TRUE(send_text(pair.runner, std::vector<std::string>(20, "x")).ok());
  EXPECT_EQ(pair.server.receive(soon()).status().code(), StatusCode::kProtocolError);
}

TEST(ZmqSocket, disconnects_a_peer_with_a_frame_over_the_limit) {
  SocketPair pair(Transport::kTcp);
  const auto huge = std::make_shared<std::vector<std::byte>>(limits::kFrameBytes + 1);
  ASSERT_TRUE(pair.runner.send_shared("", *huge, huge, soon()).ok());
  EXPECT_TRUE(eventually([&] { return pair.runner.disconnected(); }));
  EXPECT_EQ(pair.server.receive(Deadline::now()).status().code(), StatusCode::kDeadlineExceeded);
}

TEST(ZmqSocket, names_an_endpoint_that_it_cannot_bind) {
  SocketPair pair(Transport::kTcp);
  ZmqSocket second = pair.make(ZmqSocketType::kRouter, "");
  const Status status = second.bind(pair.endpoint).status();
  EXPECT_EQ(status.code(), StatusCode::kInUse);
  EXPECT_NE(status.message().find(pair.endpoint), std::string::npos);
  EXPECT_FALSE(second.bind("nonsense").ok());
  EXPECT_FALSE(second.connect("nonsense://").ok());
}

}  // namespace
}  // namespace airlock
