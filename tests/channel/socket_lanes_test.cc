// A channel with three data sockets at one end, the raw sockets in a hostile hand at the other.

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "runtime/channel/frame.h"
#include "tests/channel/channel_rigs.h"
#include "tests/channel/gate.h"

namespace airlock {
namespace {

using testing_rigs::eventually;
using testing_rigs::Gate;
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
  HostileLanePeer() : sockets_(Transport::kTcp), lanes_(2), channel_(make_channel()) {}

  std::unique_ptr<Channel> make_channel() {
    return make_end(std::move(sockets_.server), &watch_, {}, {}, nullptr, {}, 0,
                    SocketLanes::start(std::move(lanes_.server)).value());
  }
  /// The second lane goes through `gate`.
  void connect_anew(const Gate& gate) {
    sockets_ = SocketPair(Transport::kTcp);
    lanes_ = LanePairs(1);
    LanePairs gated(1, &gate);
    lanes_.server.push_back(std::move(gated.server[0]));
    lanes_.runner.push_back(std::move(gated.runner[0]));
    lanes_.runner_connections.push_back(std::move(gated.runner_connections[0]));
    channel_ = make_channel();
  }

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
  void hang_up(std::size_t index, int how = SHUT_RDWR) {
    ASSERT_EQ(::shutdown(lanes_.runner_connections[index].get(), how), 0);
  }
  static Bytes take_frame(ZmtpSocket& socket) {
    Bytes frame(limits::kFrameBytes);
    frame.resize(socket.receive_into(frame, soon()).value());
    return frame;
  }
  /// All that 64 MiB are: an opening each, and 22, 21 and 21 of 64 frames.
  void read_on_first() { read(sockets_.runner, 23); }
  void read_on_lane(std::size_t index) { read(lane(index), 22); }
  static void read(ZmtpSocket& socket, std::size_t frames) {
    Bytes place(limits::kFrameBytes);
    for (std::size_t i = 0; i < frames; ++i)
      EXPECT_TRUE(socket.receive_into(place, soon()).ok()) << i;
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

// The same as docs/PROTOCOL.md draws it, in the other direction.
TEST_F(HostileLanePeer, what_is_sent_is_to_the_byte_what_the_protocol_says) {
  const auto small = channel_->prepare(Sizes{3}, soon()).value();
  ASSERT_TRUE(channel_->send(*small, header_of(0, {3}), soon()).ok());
  read(sockets_.runner, 2);

  const Sizes sizes{2 * kStripe + 5, kStripe};
  const auto message = channel_->prepare(sizes, soon()).value();
  Bytes all;
  for (std::size_t i = 0; i < sizes[0] + sizes[1]; ++i)
    all.push_back(static_cast<std::byte>(i * 31 + i / 4096));
  std::memcpy(message->tensor(0).data(), all.data(), sizes[0]);
  std::memcpy(message->tensor(1).data(), all.data() + sizes[0], sizes[1]);
  const Bytes header = header_of(0, sizes);
  std::thread sender([&] { EXPECT_TRUE(channel_->send(*message, header, soon()).ok()); });
  const auto opening = [](unsigned char header_bytes) {
    const std::array<unsigned char, 24> bytes{
        0xef,        0xcd, 0xab, 0x90, 0x78, 0x56, 0x34, 0x12,  // epoch
        1,           0,    0,    0,    0,    0,    0,    0,     // message 1
        header_bytes};
    const auto view = std::as_bytes(std::span(bytes));
    return Bytes(view.begin(), view.end());
  };
  const auto part = [&](std::size_t at, std::size_t size) {
    const auto from = all.begin() + static_cast<std::ptrdiff_t>(at);
    return Bytes(from, from + static_cast<std::ptrdiff_t>(size));
  };
  Bytes first = opening(32);
  first.insert(first.end(), header.begin(), header.end());
  EXPECT_EQ(take_frame(sockets_.runner), first);
  EXPECT_EQ(take_frame(lane(0)), opening(0));
  EXPECT_EQ(take_frame(lane(1)), opening(0));
  // Not EXPECT_EQ: nobody wants to see a MiB.
  EXPECT_TRUE(take_frame(sockets_.runner) == part(0, kStripe));
  EXPECT_TRUE(take_frame(lane(0)) == part(kStripe, kStripe));
  EXPECT_TRUE(take_frame(lane(1)) == part(2 * kStripe, 5));
  EXPECT_TRUE(take_frame(sockets_.runner) == part(2 * kStripe + 5, kStripe));
  sender.join();
  Bytes more(1);
  for (ZmtpSocket* socket : {&sockets_.runner, &lane(0), &lane(1)})
    EXPECT_EQ(socket->receive_into(more, shortly()).status().code(), StatusCode::kDeadlineExceeded);
}

TEST_F(HostileLanePeer, a_message_of_a_MiB_or_less_uses_no_lane_whatever_it_has) {
  hang_up(0);  // nobody has to look there
  const Sizes sizes{kStripe / 2, 3, kStripe / 2 - 3};
  send(sockets_.runner, encode_opening({kEpoch, 0}, header_of(0, sizes)));
  for (const std::size_t size : sizes) send(sockets_.runner, Bytes(size));
  EXPECT_TRUE(receive().ok());
  const auto message = channel_->prepare(sizes, soon()).value();
  std::thread sender(
      [&] { EXPECT_TRUE(channel_->send(*message, header_of(0, sizes), soon()).ok()); });
  EXPECT_EQ(take_frame(sockets_.runner), encode_opening({kEpoch, 0}, header_of(0, sizes)));
  for (const std::size_t size : sizes) EXPECT_EQ(take_frame(sockets_.runner).size(), size);
  sender.join();
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

TEST_F(HostileLanePeer, what_came_before_the_lanes_were_closed_is_received_by_who_has_half_sent) {
  const Sizes sizes{std::size_t{64} << 20};
  const auto request = channel_->prepare(sizes, soon()).value();
  EXPECT_EQ(channel_->send(*request, header_of(0, sizes), shortly()).code(), StatusCode::kBusy);
  send_on_lane(0, kEpoch, 0, kStripe);
  send_on_lane(1, kEpoch, 0, kStripe / 2);
  for (const std::size_t index : {0, 1}) hang_up(index, SHUT_WR);
  open_message();
  const Status received = receive();
  EXPECT_TRUE(received.ok()) << received.to_string();
  EXPECT_EQ(channel_->send(*request, header_of(0, sizes), soon()).code(), StatusCode::kUnavailable);
}

TEST_F(HostileLanePeer, what_came_before_all_were_closed_waits_for_a_slow_lane) {
  const Gate gate;
  connect_anew(gate);
  open_message();
  send_on_lane(0, kEpoch, 0, kStripe);
  send_on_lane(1, kEpoch, 0, kStripe / 2);
  ASSERT_EQ(::shutdown(sockets_.runner_connection.get(), SHUT_RDWR), 0);
  hang_up(0);
  hang_up(1);
  gate.hold();
  // Several looks who is still there.
  EXPECT_EQ(receive(Deadline::after(std::chrono::milliseconds(300))).code(),
            StatusCode::kDeadlineExceeded);
  gate.open();
  EXPECT_TRUE(receive().ok());
  EXPECT_EQ(receive().code(), StatusCode::kUnavailable);
}

TEST_F(HostileLanePeer, a_lane_that_nobody_reads_is_backpressure_and_then_goes_on) {
  const std::size_t bytes = std::size_t{64} << 20;
  const auto message = channel_->prepare(Sizes{bytes}, soon()).value();
  EXPECT_EQ(channel_->send(*message, header_of(0, {bytes}), shortly()).code(), StatusCode::kBusy);
  std::thread on_first([this] { read_on_first(); });
  std::thread on_lane([this] { read_on_lane(0); });
  EXPECT_EQ(channel_->send(*message, header_of(0, {bytes}), shortly()).code(), StatusCode::kBusy);
  std::thread on_last([this] { read_on_lane(1); });
  EXPECT_TRUE(channel_->send(*message, header_of(0, {bytes}), soon()).ok());
  for (std::thread* reader : {&on_first, &on_lane, &on_last}) reader->join();
}
TEST_F(HostileLanePeer, what_has_left_while_it_waits_for_the_next_message_is_free_again) {
  const std::size_t bytes = std::size_t{64} << 20;
  auto message = channel_->prepare(Sizes{bytes}, soon()).value();
  const std::byte* const place = message->tensor(0).data();
  EXPECT_EQ(channel_->send(*message, header_of(0, {bytes}), shortly()).code(), StatusCode::kBusy);
  message.reset();
  std::thread readers[] = {std::thread([this] { read_on_first(); }),
                           std::thread([this] { read_on_lane(0); }),
                           std::thread([this] { read_on_lane(1); })};
  std::unique_ptr<Message> other;  // in hand while the next is taken: it will be the place's turn
  bool is_free = false;
  for (const Deadline end = soon(); !is_free && !end.expired();) {
    EXPECT_EQ(receive(shortly()).code(), StatusCode::kDeadlineExceeded);
    auto next = channel_->prepare(Sizes{bytes}, soon()).value();
    is_free = next->tensor(0).data() == place;
    other = std::move(next);
  }
  EXPECT_TRUE(is_free);
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

/// One lane, whose peer takes everything and is never done; held up until `gate` is opened.
class TirelessPeer : public testing::Test {
 protected:
  TirelessPeer() {
    LanePairs pairs(1, &gate_);
    gate_.state->is_endless = true;
    gate_.hold();
    lanes_ = SocketLanes::start(std::move(pairs.server)).value();
  }
  void await_lane() {
    for (const Deadline end = soon(); lanes_->sending() || lanes_->receiving();) {
      ASSERT_FALSE(end.expired());
      pollfd changed{lanes_->changed().fd(), POLLIN, 0};
      (void)::poll(&changed, 1, 10);
      lanes_->changed().clear();
    }
  }

  const Gate gate_;
  const std::shared_ptr<const Bytes> frame_ = std::make_shared<const Bytes>(kStripe);
  static constexpr std::size_t kFrames = 64;
  /// Of empty frames, two bytes each.
  static constexpr std::size_t kPlaces = std::size_t{1} << 18;
  std::unique_ptr<SocketLanes> lanes_;
};

TEST_F(TirelessPeer, is_sent_what_there_is_while_it_sends) {
  lanes_->receive(0, std::vector<std::span<std::byte>>(kPlaces));
  ASSERT_TRUE(gate_.await_visitor());
  lanes_->send(0, {*frame_}, frame_);
  gate_.open();
  await_lane();
  EXPECT_LT(gate_.state->received_first.load(), kPlaces);
}
TEST_F(TirelessPeer, is_heard_while_it_is_sent_a_lot) {
  lanes_->send(0, std::vector<std::span<const std::byte>>(kFrames, *frame_), frame_);
  ASSERT_TRUE(gate_.await_visitor());
  lanes_->receive(0, {std::span<std::byte>()});
  gate_.open();
  await_lane();
  EXPECT_LT(gate_.state->sent_first.load(), kFrames * kStripe / 2);
}
TEST_F(TirelessPeer, does_not_keep_a_lane_from_its_end) {
  constexpr std::size_t kForAWhile = 8 * kPlaces;
  lanes_->receive(0, std::vector<std::span<std::byte>>(kForAWhile));
  ASSERT_TRUE(gate_.await_visitor());
  gate_.open();
  lanes_.reset();
  EXPECT_LT(gate_.state->received.load(), 2 * kForAWhile);
}

/// Leaves a lane that has more to send than its peer, who reads nothing, takes.
class LeavingPeer : public testing::Test {
 protected:
  LeavingPeer() : pairs_(1, &gate_), lane_fd_(pairs_.server[0].fd()) {
    lanes_ = SocketLanes::start(std::move(pairs_.server)).value();
    lanes_->send(0, std::vector<std::span<const std::byte>>(64, *frame_), frame_);
  }
  /// All of it has arrived: the answer, and that nothing more comes or is taken.
  void answer_and_leave() {
    ASSERT_TRUE(pairs_.runner[0].send(answer_, soon()).ok());
    await_event(POLLIN);
    pairs_.runner.clear();
    pairs_.runner_connections.clear();
    await_event(POLLHUP);
  }
  void await_event(short event) const {
    EXPECT_TRUE(eventually([&] {
      pollfd seen{lane_fd_, event, 0};
      return ::poll(&seen, 1, 0) == 1 && (seen.revents & event) != 0;
    }));
  }
  void expect_answer() {
    EXPECT_TRUE(eventually([this] { return !lanes_->receiving() || !lanes_->check().ok(); }));
    EXPECT_FALSE(lanes_->receiving());
    EXPECT_TRUE(lanes_->check().ok()) << lanes_->check().to_string();
    EXPECT_TRUE(place_ == answer_);
    EXPECT_TRUE(lanes_->sending());
    EXPECT_TRUE(lanes_->disconnected());
  }

  const Gate gate_;
  const std::shared_ptr<const Bytes> frame_ = std::make_shared<const Bytes>(kStripe);
  const Bytes answer_ = Bytes(1000, std::byte{7});
  Bytes place_ = Bytes(1000);
  LanePairs pairs_;
  const int lane_fd_;
  std::unique_ptr<SocketLanes> lanes_;
};

TEST_F(LeavingPeer, has_its_answer_taken_where_it_is_waited_for) {
  ASSERT_TRUE(gate_.await_refusals(1));
  gate_.hold();
  lanes_->receive(0, {place_});
  ASSERT_TRUE(gate_.await_visitor());
  answer_and_leave();
  gate_.open();
  expect_answer();
}
TEST_F(LeavingPeer, has_its_answer_taken_where_that_is_waited_for_only_later) {
  ASSERT_TRUE(gate_.await_refusals(1));
  gate_.hold();
  answer_and_leave();
  ASSERT_TRUE(gate_.await_visitor());
  const std::size_t refusals = gate_.state->refusals;
  gate_.open();
  ASSERT_TRUE(gate_.await_refusals(refusals + 1));
  lanes_->receive(0, {place_});
  expect_answer();
}
TEST_F(LeavingPeer, leaves_a_lane_that_does_nothing_and_ends_at_once) {
  ASSERT_TRUE(gate_.await_refusals(1));
  answer_and_leave();
  const std::size_t refusals = gate_.state->refusals;
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  EXPECT_LT(gate_.state->refusals.load(), refusals + 10);
  // Nothing but that wakes it for a minute.
  const Deadline end = Deadline::after(std::chrono::seconds(30));
  lanes_.reset();
  EXPECT_FALSE(end.expired());
}

}  // namespace
}  // namespace airlock
