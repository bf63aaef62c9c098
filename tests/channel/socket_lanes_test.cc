// A channel with three data sockets at one end, the raw sockets in a hostile hand at the other.

#include <gtest/gtest.h>
#include <sys/socket.h>

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "runtime/channel/frame.h"
#include "tests/channel/channel_rigs.h"

namespace airlock {
namespace {

using testing_rigs::header_of;
using testing_rigs::kEpoch;
using testing_rigs::LanePairs;
using testing_rigs::make_end;
using testing_rigs::shortly;
using testing_rigs::sizes_in;
using testing_rigs::SocketPair;
using testing_rigs::soon;
using testing_rigs::Transport;

using Bytes = std::vector<std::byte>;
using Sizes = std::vector<std::size_t>;
constexpr std::size_t kStripe = limits::kStripeBytes;
/// A stripe on the first socket and on the first lane, and half of one on the other.
constexpr std::size_t kBulk = 2 * kStripe + kStripe / 2;

class Watch final : public PeerWatch {
 public:
  Status check() const override {
    return dead ? Status(StatusCode::kUnavailable, "the peer died") : Status();
  }
  std::atomic<bool> dead{false};
};

class HostileLanePeer : public testing::Test {
 protected:
  HostileLanePeer()
      : sockets_(Transport::kTcp),
        lanes_(2),
        channel_(make_end(std::move(sockets_.server), &watch_, {}, {}, nullptr, {}, 0,
                          SocketLanes::start(std::move(lanes_.server)).value())) {}

  static void send(ZmtpSocket& socket, const Bytes& bytes) {
    ASSERT_TRUE(socket.send(bytes, soon()).ok());
  }
  ZmtpSocket& lane(std::size_t index) { return lanes_.runner[index]; }
  /// A message of kBulk, but for what comes on the lanes.
  void open_message(std::uint64_t sequence = 0) {
    send(sockets_.runner, encode_opening({kEpoch, sequence}, header_of(0, {kBulk})));
    send(sockets_.runner, Bytes(kStripe, std::byte{1}));
  }
  void send_on_lane(std::size_t index, std::uint64_t epoch, std::uint64_t sequence,
                    std::size_t bytes, std::byte value = std::byte{7}) {
    send(lane(index), encode_opening({epoch, sequence}, {}));
    send(lane(index), Bytes(bytes, value));
  }
  void hang_up(std::size_t index) {
    ASSERT_EQ(::shutdown(lanes_.runner_connections[index].get(), SHUT_RDWR), 0);
  }
  Status receive(Deadline deadline = soon()) {
    return channel_->receive(sizes_in, deadline).status();
  }
  void expect_poisoned(const std::string& why) {
    const Status status = receive();
    EXPECT_EQ(status.code(), StatusCode::kProtocolError) << status.to_string();
    EXPECT_NE(status.message().find(why), std::string::npos) << status.to_string();
    EXPECT_EQ(receive().code(), StatusCode::kProtocolError);
    EXPECT_EQ(channel_->stats()[Path::kZmq].errors.load(), 1u);
    EXPECT_EQ(channel_->stats()[Path::kZmq].received.messages.load(), 0u);
  }

  Watch watch_;
  SocketPair sockets_;
  LanePairs lanes_;
  std::unique_ptr<Channel> channel_;
};

TEST_F(HostileLanePeer, frames_lie_on_the_sockets_in_turn) {
  send(sockets_.runner, encode_opening({kEpoch, 0}, header_of(0, {kStripe + 5, 2 * kStripe, 3})));
  send(sockets_.runner, Bytes(kStripe, std::byte{1}));  // and the fourth frame of five
  send(sockets_.runner, Bytes(kStripe, std::byte{4}));
  send(lane(0), encode_opening({kEpoch, 0}, {}));
  send(lane(0), Bytes(5, std::byte{2}));
  send(lane(0), Bytes(3, std::byte{5}));
  send_on_lane(1, kEpoch, 0, kStripe, std::byte{3});
  const auto message = channel_->receive(sizes_in, soon());
  ASSERT_TRUE(message.ok()) << message.status().to_string();
  const auto expect_all = [](std::span<const std::byte> bytes, int value) {
    EXPECT_TRUE(std::ranges::all_of(bytes, [&](auto byte) { return byte == std::byte(value); }))
        << value;
  };
  expect_all((*message)->tensor(0).first(kStripe), 1);
  expect_all((*message)->tensor(0).subspan(kStripe), 2);
  expect_all((*message)->tensor(1).first(kStripe), 3);
  expect_all((*message)->tensor(1).subspan(kStripe), 4);
  expect_all((*message)->tensor(2), 5);
}

TEST_F(HostileLanePeer, a_message_that_needs_no_lane_uses_none) {
  hang_up(0);  // nobody has to look there
  send(sockets_.runner, encode_opening({kEpoch, 0}, header_of(0, {kStripe})));
  send(sockets_.runner, Bytes(kStripe));
  EXPECT_TRUE(receive().ok());
}

TEST_F(HostileLanePeer, another_sessions_lane_ends_the_session) {
  open_message();
  send_on_lane(0, kEpoch + 1, 0, kStripe);
  send_on_lane(1, kEpoch, 0, kStripe / 2);
  expect_poisoned("epoch");
}
TEST_F(HostileLanePeer, another_messages_lane_ends_the_session) {
  open_message();
  send_on_lane(0, kEpoch, 0, kStripe);
  send_on_lane(1, kEpoch, 1, kStripe / 2);
  expect_poisoned("message");
}
TEST_F(HostileLanePeer, a_lane_without_an_opening_ends_the_session) {
  open_message();
  send(lane(0), Bytes(kStripe));
  expect_poisoned("expected at most 24");
}
TEST_F(HostileLanePeer, a_header_on_a_lane_ends_the_session) {
  open_message();
  send(lane(1), encode_opening({kEpoch, 0}, header_of(0, {kBulk})));
  expect_poisoned("expected at most 24");
}
TEST_F(HostileLanePeer, a_short_frame_on_a_lane_ends_the_session) {
  open_message();
  send_on_lane(0, kEpoch, 0, kStripe - 1);
  expect_poisoned("a frame of 1048575 bytes, expected 1048576");
}
TEST_F(HostileLanePeer, a_long_frame_on_a_lane_ends_the_session) {
  open_message();
  send_on_lane(1, kEpoch, 0, kStripe / 2 + 1);
  expect_poisoned("a frame of 524289 bytes");
}
TEST_F(HostileLanePeer, junk_on_a_lane_ends_the_session_once_it_is_read) {
  const Bytes junk(300, std::byte{0xff});
  ASSERT_EQ(::send(lanes_.runner_connections[0].get(), junk.data(), junk.size(), 0), 300);
  EXPECT_EQ(receive(shortly()).code(), StatusCode::kDeadlineExceeded);
  open_message();
  expect_poisoned("several parts");
}

TEST_F(HostileLanePeer, a_lane_that_stalls_is_no_error_and_the_next_receive_goes_on) {
  open_message();
  send_on_lane(0, kEpoch, 0, kStripe);
  EXPECT_EQ(receive(shortly()).code(), StatusCode::kDeadlineExceeded);
  send_on_lane(1, kEpoch, 0, kStripe / 2, std::byte{9});
  const auto message = channel_->receive(sizes_in, soon());
  ASSERT_TRUE(message.ok()) << message.status().to_string();
  EXPECT_EQ((*message)->tensor(0).back(), std::byte{9});
}
TEST_F(HostileLanePeer, a_dead_peer_ends_the_wait_for_a_lane) {
  open_message();
  EXPECT_EQ(receive(shortly()).code(), StatusCode::kDeadlineExceeded);
  watch_.dead = true;
  EXPECT_EQ(receive().message(), "the peer died");
}
TEST_F(HostileLanePeer, a_lane_that_is_closed_ends_the_session_at_once) {
  open_message();
  send_on_lane(0, kEpoch, 0, kStripe);
  EXPECT_EQ(receive(shortly()).code(), StatusCode::kDeadlineExceeded);
  hang_up(1);
  EXPECT_EQ(receive().code(), StatusCode::kUnavailable);
  EXPECT_EQ(channel_->stats()[Path::kZmq].errors.load(), 0u);  // leaving is no error
}
TEST_F(HostileLanePeer, a_lane_that_is_closed_ends_the_wait_for_the_next_message) {
  hang_up(0);
  EXPECT_EQ(receive().code(), StatusCode::kUnavailable);
}
TEST_F(HostileLanePeer, what_came_before_a_lane_was_closed_is_still_received) {
  send_on_lane(0, kEpoch, 0, kStripe);
  send_on_lane(1, kEpoch, 0, kStripe / 2);
  hang_up(0);
  hang_up(1);
  open_message();
  EXPECT_TRUE(receive().ok());
}

TEST_F(HostileLanePeer, a_lane_that_nobody_reads_is_backpressure_and_then_goes_on) {
  const std::size_t bytes = std::size_t{64} << 20;
  const auto message = channel_->prepare(Sizes{bytes}, soon()).value();
  EXPECT_EQ(channel_->send(*message, header_of(0, {bytes}), shortly()).code(), StatusCode::kBusy);
  std::vector<std::thread> readers;
  const auto read = [](ZmtpSocket& socket, std::size_t frames) {
    Bytes place(limits::kFrameBytes);
    for (std::size_t i = 0; i < frames; ++i)
      EXPECT_TRUE(socket.receive_into(place, soon()).ok()) << i;
  };
  // An opening each; 22, 21 and 21 of 64 frames.
  readers.emplace_back(read, std::ref(sockets_.runner), 23);
  readers.emplace_back(read, std::ref(lane(0)), 22);
  EXPECT_EQ(channel_->send(*message, header_of(0, {bytes}), shortly()).code(), StatusCode::kBusy);
  readers.emplace_back(read, std::ref(lane(1)), 22);
  EXPECT_TRUE(channel_->send(*message, header_of(0, {bytes}), soon()).ok());
  for (std::thread& reader : readers) reader.join();
}
TEST_F(HostileLanePeer, a_channel_ends_while_its_lanes_send_and_fill) {
  const std::size_t bytes = std::size_t{64} << 20;
  auto message = channel_->prepare(Sizes{bytes}, soon()).value();
  EXPECT_EQ(channel_->send(*message, header_of(0, {bytes}), shortly()).code(), StatusCode::kBusy);
  open_message();
  EXPECT_EQ(receive(shortly()).code(), StatusCode::kDeadlineExceeded);
  message.reset();
  channel_.reset();
  Bytes place(limits::kFrameBytes);
  const Deadline end = soon();
  Status status;
  while (status.ok() && !end.expired()) status = lane(1).receive_into(place, soon()).status();
  EXPECT_EQ(status.code(), StatusCode::kUnavailable);
}

}  // namespace
}  // namespace airlock
