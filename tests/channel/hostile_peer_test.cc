// A channel at one end, raw sockets and rings in a hostile hand at the other.

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "runtime/channel/frame.h"
#include "tests/channel/channel_rigs.h"

namespace airlock {
namespace {

using testing_rigs::kEpoch;
using testing_rigs::kGeometry;
using testing_rigs::kToken;
using testing_rigs::RingPair;
using testing_rigs::shortly;
using testing_rigs::SocketPair;
using testing_rigs::soon;
using testing_rigs::Transport;

using Bytes = std::vector<std::byte>;
using Sizes = std::vector<std::size_t>;
constexpr std::size_t kBulk = 100000;

Status accept_all(std::span<const std::byte>, std::span<const std::size_t>) { return {}; }

Bytes frame(std::uint64_t epoch, std::uint64_t sequence, const Sizes& sizes) {
  return encode_frame(epoch, sequence, sizes, Bytes(10));
}
Bytes preamble(const BulkPreamble& fields) {
  const auto bytes = encode_preamble(fields);
  return {bytes.begin(), bytes.end()};
}
void raw_send(ZmqSocket& socket, const Bytes& bytes) {
  const std::array<std::span<const std::byte>, 1> parts{bytes};
  ASSERT_TRUE(socket.send(parts, soon()).ok());
}

class Watch final : public PeerWatch {
 public:
  Status check() const override {
    if (!dead.load()) return {};
    return Status(StatusCode::kUnavailable, "the peer died");
  }
  std::atomic<bool> dead{false};
};

class HostileZmqPeer : public testing::Test {
 protected:
  HostileZmqPeer()
      : sockets_(Transport::kIpc),
        channel_(ZmqChannel::create(
            {kEpoch, kGeometry.slot_bytes, std::move(sockets_.server), kToken, &watch_})) {}
  StatusCode receive() { return channel_->receive(accept_all, soon()).status().code(); }
  void expect_poisoned() {
    EXPECT_EQ(receive(), StatusCode::kProtocolError);
    EXPECT_EQ(receive(), StatusCode::kProtocolError);
    EXPECT_EQ(channel_->stats()[Path::kZmq].errors.load(), 1u);
    EXPECT_EQ(channel_->stats()[Path::kZmq].received.messages.load(), 0u);
  }

  Watch watch_;
  SocketPair sockets_;
  std::unique_ptr<Channel> channel_;
};

TEST_F(HostileZmqPeer, wrong_epoch_ends_the_session) {
  raw_send(sockets_.runner, frame(kEpoch + 1, 0, {}));
  expect_poisoned();
}
TEST_F(HostileZmqPeer, wrong_sequence_ends_the_session) {
  raw_send(sockets_.runner, frame(kEpoch, 1, {}));
  expect_poisoned();
}
TEST_F(HostileZmqPeer, replay_ends_the_session) {
  raw_send(sockets_.runner, frame(kEpoch, 0, {}));
  EXPECT_EQ(receive(), StatusCode::kOk);
  raw_send(sockets_.runner, frame(kEpoch, 0, {}));
  EXPECT_EQ(receive(), StatusCode::kProtocolError);
}
TEST_F(HostileZmqPeer, junk_ends_the_session) {
  raw_send(sockets_.runner, Bytes(100, std::byte{0xff}));
  expect_poisoned();
}
TEST_F(HostileZmqPeer, empty_frame_ends_the_session) {
  raw_send(sockets_.runner, {});
  expect_poisoned();
}
TEST_F(HostileZmqPeer, oversized_frame_ends_the_session) {
  raw_send(sockets_.runner, Bytes(1 << 20));
  expect_poisoned();
}
TEST_F(HostileZmqPeer, wrong_preamble_ends_the_session) {
  raw_send(sockets_.runner, frame(kEpoch, 0, {kBulk}));
  raw_send(sockets_.runner, preamble({kEpoch, 0, 1, kBulk}));
  expect_poisoned();
}
TEST_F(HostileZmqPeer, short_chunk_ends_the_session) {
  raw_send(sockets_.runner, frame(kEpoch, 0, {kBulk}));
  raw_send(sockets_.runner, preamble({kEpoch, 0, 0, kBulk}));
  raw_send(sockets_.runner, Bytes(kBulk - 1));
  expect_poisoned();
}
TEST_F(HostileZmqPeer, long_chunk_ends_the_session) {
  raw_send(sockets_.runner, frame(kEpoch, 0, {kBulk}));
  raw_send(sockets_.runner, preamble({kEpoch, 0, 0, kBulk}));
  raw_send(sockets_.runner, Bytes(kBulk + 1));
  expect_poisoned();
}

TEST_F(HostileZmqPeer, huge_claim_is_refused_before_memory_is_given) {
  raw_send(sockets_.runner, frame(kEpoch, 0, {limits::kMaxTensorBytes}));
  const auto refuse = [](std::span<const std::byte>, std::span<const std::size_t> sizes) {
    EXPECT_EQ(sizes[0], limits::kMaxTensorBytes);
    return Status(StatusCode::kProtocolError, "too large");
  };
  EXPECT_EQ(channel_->receive(refuse, soon()).status().message(), "too large");
}

TEST_F(HostileZmqPeer, frames_of_another_identity_are_dropped) {
  ZmqSocket stranger = sockets_.make(ZmqSocketType::kDealer, "stranger");
  ASSERT_TRUE(stranger.connect(sockets_.endpoint).ok());
  raw_send(stranger, Bytes(100, std::byte{0xff}));
  EXPECT_EQ(channel_->receive(accept_all, shortly()).status().code(),
            StatusCode::kDeadlineExceeded);
  raw_send(sockets_.runner, frame(kEpoch, 0, {}));
  EXPECT_EQ(receive(), StatusCode::kOk);
}

TEST_F(HostileZmqPeer, slow_bulk_is_no_error_and_the_next_receive_goes_on) {
  raw_send(sockets_.runner, frame(kEpoch, 0, {kBulk}));
  raw_send(sockets_.runner, preamble({kEpoch, 0, 0, kBulk}));
  int asked = 0;
  const Accept count = [&](std::span<const std::byte>, std::span<const std::size_t>) {
    ++asked;
    return Status();
  };
  EXPECT_EQ(channel_->receive(count, shortly()).status().code(), StatusCode::kDeadlineExceeded);
  raw_send(sockets_.runner, Bytes(kBulk, std::byte{3}));
  auto message = channel_->receive(count, soon());
  ASSERT_TRUE(message.ok()) << message.status().to_string();
  EXPECT_EQ((*message)->tensor(0).back(), std::byte{3});
  EXPECT_EQ(asked, 2);
}

TEST_F(HostileZmqPeer, dead_peer_ends_a_long_wait) {
  std::thread killer([&] { watch_.dead = true; });
  EXPECT_EQ(receive(), StatusCode::kUnavailable);
  killer.join();
  EXPECT_EQ(channel_->prepare({}, soon()).status().code(), StatusCode::kUnavailable);
}

TEST_F(HostileZmqPeer, closed_connection_ends_a_long_wait) {
  raw_send(sockets_.runner, frame(kEpoch, 0, {}));
  EXPECT_EQ(receive(), StatusCode::kOk);
  { const ZmqSocket gone = std::move(sockets_.runner); }
  EXPECT_EQ(receive(), StatusCode::kUnavailable);
  EXPECT_EQ(channel_->stats()[Path::kZmq].errors.load(), 0u);  // leaving is no error
}

TEST_F(HostileZmqPeer, last_message_of_a_dead_peer_is_still_received) {
  raw_send(sockets_.runner, frame(kEpoch, 0, {}));
  watch_.dead = true;
  EXPECT_EQ(receive(), StatusCode::kOk);
  EXPECT_EQ(receive(), StatusCode::kUnavailable);
}

TEST(ZmqChannelServer, waits_for_a_runner_that_has_not_connected_yet) {
  SocketPair sockets(Transport::kIpc, "someone-else");
  auto channel = ZmqChannel::create(
      {kEpoch, kGeometry.slot_bytes, std::move(sockets.server), kToken, nullptr});
  auto message = channel->prepare(Sizes{10}, soon());
  ASSERT_TRUE(message.ok());
  EXPECT_EQ(channel->send(**message, {}, shortly()).code(), StatusCode::kResourceExhausted);
  ZmqSocket runner = sockets.make(ZmqSocketType::kDealer, kToken);
  ASSERT_TRUE(runner.connect(sockets.endpoint).ok());
  EXPECT_TRUE(channel->send(**message, {}, soon()).ok());
}

class HostileRingPeer : public testing::Test {
 protected:
  HostileRingPeer()
      : sockets_(Transport::kIpc),
        channel_(testing_rigs::make_local_end(rings_.reply, rings_.request,
                                              std::move(sockets_.server), kToken, &watch_)),
        ring_(RingProducer::create(*rings_.request, kGeometry, kEpoch).value()) {}
  void publish(const Bytes& header, const Sizes& payload_bytes) {
    auto slots = ring_.claim(payload_bytes.size(), soon(), {});
    ASSERT_TRUE(slots.ok());
    ASSERT_TRUE(ring_.commit(*slots, header, payload_bytes).ok());
  }
  void expect_poisoned(Path path) {
    EXPECT_EQ(channel_->receive(accept_all, soon()).status().code(), StatusCode::kProtocolError);
    EXPECT_EQ(channel_->prepare({}, soon()).status().code(), StatusCode::kProtocolError);
    EXPECT_EQ(channel_->stats()[path].errors.load(), 1u);
  }

  Watch watch_;
  SocketPair sockets_;
  RingPair rings_;
  std::unique_ptr<Channel> channel_;
  RingProducer ring_;
};

TEST_F(HostileRingPeer, wrong_epoch_in_the_header_ends_the_session) {
  publish(frame(kEpoch + 1, 0, {}), {0});
  expect_poisoned(Path::kRing);
}
TEST_F(HostileRingPeer, wrong_message_sequence_ends_the_session) {
  publish(frame(kEpoch, 3, {}), {0});
  expect_poisoned(Path::kRing);
}
TEST_F(HostileRingPeer, junk_header_ends_the_session) {
  publish(Bytes(500, std::byte{0xee}), {0});
  expect_poisoned(Path::kRing);
}
TEST_F(HostileRingPeer, empty_header_ends_the_session) {
  publish({}, {0});
  expect_poisoned(Path::kRing);
}
TEST_F(HostileRingPeer, slot_size_that_contradicts_the_header_ends_the_session) {
  publish(frame(kEpoch, 0, {100}), {99});
  expect_poisoned(Path::kRing);
}
TEST_F(HostileRingPeer, fewer_slots_than_ring_tensors_end_the_session) {
  publish(frame(kEpoch, 0, {100, 100}), {100});
  expect_poisoned(Path::kRing);
}
TEST_F(HostileRingPeer, more_slots_than_ring_tensors_end_the_session) {
  publish(frame(kEpoch, 0, {}), {0, 50});
  expect_poisoned(Path::kRing);
}
TEST_F(HostileRingPeer, small_tensor_claimed_for_the_socket_ends_the_session) {
  publish(frame(kEpoch, 0, {kBulk}), {100});
  expect_poisoned(Path::kRing);
}
TEST_F(HostileRingPeer, wrong_bulk_ends_the_session_as_an_error_of_zmq) {
  publish(frame(kEpoch, 0, {kBulk}), {0});
  raw_send(sockets_.runner, preamble({kEpoch + 1, 0, 0, kBulk}));
  expect_poisoned(Path::kZmq);
}
TEST_F(HostileRingPeer, dead_peer_ends_a_wait_for_a_message_and_for_a_slot) {
  watch_.dead = true;
  EXPECT_EQ(channel_->receive(accept_all, soon()).status().code(), StatusCode::kUnavailable);
  EXPECT_EQ(channel_->prepare({}, soon()).status().code(), StatusCode::kUnavailable);
}

}  // namespace
}  // namespace airlock
