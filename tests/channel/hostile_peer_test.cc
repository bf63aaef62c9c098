// A channel at one end, raw sockets and rings in a hostile hand at the other.

#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "runtime/channel/frame.h"
#include "shm/ring.h"
#include "tests/channel/channel_rigs.h"

namespace airlock {
namespace {

using testing_rigs::header_of;
using testing_rigs::kEpoch;
using testing_rigs::kGeometry;
using testing_rigs::make_end;
using testing_rigs::RingPair;
using testing_rigs::shortly;
using testing_rigs::sizes_in;
using testing_rigs::SocketPair;
using testing_rigs::soon;
using testing_rigs::Transport;

using Bytes = std::vector<std::byte>;
using Sizes = std::vector<std::size_t>;
constexpr std::size_t kBulk = 100000;

/// The first frame of a message on the socket, with a header that implies `sizes`.
Bytes opening(std::uint64_t epoch, std::uint64_t sequence, const Sizes& sizes) {
  return encode_opening({epoch, sequence}, header_of(0, sizes));
}
/// The same, where the header takes the ring.
Bytes bare_opening(std::uint64_t epoch, std::uint64_t sequence) {
  return encode_opening({epoch, sequence}, {});
}
void raw_send(ZmtpSocket& socket, const Bytes& bytes) {
  auto copy = std::make_shared<const Bytes>(bytes);
  socket.queue(*copy, copy);
  // Not all of it, where nobody reads.
  (void)socket.flush();
}

class Watch final : public PeerWatch {
 public:
  Status check() const override {
    if (looks_left > 0 && --looks_left == 0) dead = true;
    if (!dead.load()) return {};
    return Status(StatusCode::kUnavailable, "the peer died");
  }
  mutable std::atomic<bool> dead{false};
  /// So many looks until it knows; 0: whatever `dead` says.
  mutable std::atomic<int> looks_left{0};
};

class HostileSocketPeer : public testing::Test {
 protected:
  HostileSocketPeer()
      : sockets_(Transport::kIpc), channel_(make_end(std::move(sockets_.server), &watch_)) {}
  void hang_up() {
    { const ZmtpSocket gone = std::move(sockets_.runner); }
    sockets_.runner_connection.reset();
  }
  StatusCode receive() { return channel_->receive(sizes_in, soon()).status().code(); }
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

TEST_F(HostileSocketPeer, wrong_epoch_ends_the_session) {
  raw_send(sockets_.runner, opening(kEpoch + 1, 0, {}));
  expect_poisoned();
}
TEST_F(HostileSocketPeer, wrong_sequence_ends_the_session) {
  raw_send(sockets_.runner, opening(kEpoch, 1, {}));
  expect_poisoned();
}
TEST_F(HostileSocketPeer, replay_ends_the_session) {
  raw_send(sockets_.runner, opening(kEpoch, 0, {}));
  EXPECT_EQ(receive(), StatusCode::kOk);
  raw_send(sockets_.runner, opening(kEpoch, 0, {}));
  EXPECT_EQ(receive(), StatusCode::kProtocolError);
}
TEST_F(HostileSocketPeer, junk_ends_the_session) {
  raw_send(sockets_.runner, Bytes(100, std::byte{0xff}));
  expect_poisoned();
}
TEST_F(HostileSocketPeer, empty_frame_ends_the_session) {
  raw_send(sockets_.runner, {});
  expect_poisoned();
}
TEST_F(HostileSocketPeer, oversized_frame_ends_the_session) {
  raw_send(sockets_.runner, Bytes(1 << 20));
  expect_poisoned();
}
TEST_F(HostileSocketPeer, header_over_the_limit_ends_the_session) {
  Bytes header = header_of(0, {});
  header.resize(limits::kMaxEncodedHeaderBytes + 1);
  raw_send(sockets_.runner, encode_opening({kEpoch, 0}, header));
  expect_poisoned();
}
TEST_F(HostileSocketPeer, bytes_behind_a_header_that_has_none_end_the_session) {
  const Bytes header = header_of(0, {});
  Bytes frame(inline_start(header.size()) + 10);
  write_opening({kEpoch, 0}, header, std::span(frame).first(inline_start(header.size())));
  raw_send(sockets_.runner, frame);
  expect_poisoned();
}
TEST(HostileInlinePeer, fewer_bytes_or_more_behind_the_header_end_the_session) {
  for (const std::size_t bytes : {0UL, 99UL, 101UL, 100UL}) {
    SocketPair sockets(Transport::kIpc);
    const auto channel =
        make_end(std::move(sockets.server), nullptr, {}, {}, nullptr, {}, /*inline_bytes=*/5000);
    const Bytes header = header_of(0, {100});
    Bytes frame(inline_start(header.size()) + bytes);
    write_opening({kEpoch, 0}, header, std::span(frame).first(inline_start(header.size())));
    if (bytes == 0) frame = encode_opening({kEpoch, 0}, header);
    raw_send(sockets.runner, frame);
    EXPECT_EQ(channel->receive(sizes_in, soon()).status().code(),
              bytes == 100 ? StatusCode::kOk : StatusCode::kProtocolError)
        << bytes;
  }
}
TEST_F(HostileSocketPeer, next_message_instead_of_a_tensor_ends_the_session) {
  raw_send(sockets_.runner, opening(kEpoch, 0, {kBulk}));
  raw_send(sockets_.runner, opening(kEpoch, 1, {kBulk}));
  expect_poisoned();
}
TEST_F(HostileSocketPeer, one_tensor_too_many_ends_the_session) {
  raw_send(sockets_.runner, opening(kEpoch, 0, {kBulk}));
  raw_send(sockets_.runner, Bytes(kBulk));
  raw_send(sockets_.runner, Bytes(kBulk));
  EXPECT_EQ(receive(), StatusCode::kOk);
  EXPECT_EQ(receive(), StatusCode::kProtocolError);
}
TEST_F(HostileSocketPeer, short_frame_ends_the_session) {
  raw_send(sockets_.runner, opening(kEpoch, 0, {kBulk}));
  raw_send(sockets_.runner, Bytes(kBulk - 1));
  expect_poisoned();
}
TEST_F(HostileSocketPeer, long_frame_ends_the_session) {
  raw_send(sockets_.runner, opening(kEpoch, 0, {kBulk}));
  raw_send(sockets_.runner, Bytes(kBulk + 1));
  expect_poisoned();
}

TEST_F(HostileSocketPeer, huge_claim_is_refused_before_memory_is_given) {
  raw_send(sockets_.runner, opening(kEpoch, 0, {limits::kMaxTensorBytes}));
  const Accept refuse = [](std::span<const std::byte> header) -> Result<Sizes> {
    EXPECT_EQ(sizes_in(header).value(), Sizes{limits::kMaxTensorBytes});
    return Status(StatusCode::kProtocolError, "too large");
  };
  EXPECT_EQ(channel_->receive(refuse, soon()).status().message(), "too large");
}
TEST_F(HostileSocketPeer, claim_beyond_the_limits_ends_the_session_whoever_accepts_it) {
  for (const Sizes& sizes :
       {Sizes{limits::kMaxTensorBytes + 1}, Sizes(9, 1), Sizes(3, limits::kMaxTensorBytes)}) {
    SocketPair sockets(Transport::kIpc);
    auto channel = make_end(std::move(sockets.server));
    raw_send(sockets.runner, opening(kEpoch, 0, sizes));
    EXPECT_EQ(channel->receive(sizes_in, soon()).status().code(), StatusCode::kProtocolError);
    EXPECT_EQ(channel->prepare({}, soon()).status().code(), StatusCode::kProtocolError);
  }
}

TEST_F(HostileSocketPeer, slow_tensor_is_no_error_and_the_next_receive_goes_on) {
  raw_send(sockets_.runner, opening(kEpoch, 0, {kBulk}));
  int asked = 0;
  const Accept count = [&](std::span<const std::byte> header) {
    ++asked;
    return sizes_in(header);
  };
  EXPECT_EQ(channel_->receive(count, shortly()).status().code(), StatusCode::kDeadlineExceeded);
  raw_send(sockets_.runner, Bytes(kBulk, std::byte{3}));
  auto message = channel_->receive(count, soon());
  ASSERT_TRUE(message.ok()) << message.status().to_string();
  EXPECT_EQ((*message)->tensor(0).back(), std::byte{3});
  EXPECT_EQ(asked, 2);
}

TEST_F(HostileSocketPeer, dead_peer_ends_a_long_wait) {
  std::thread killer([&] { watch_.dead = true; });
  EXPECT_EQ(receive(), StatusCode::kUnavailable);
  killer.join();
  EXPECT_EQ(channel_->prepare({}, soon()).status().code(), StatusCode::kUnavailable);
}

TEST_F(HostileSocketPeer, closed_connection_ends_a_long_wait) {
  raw_send(sockets_.runner, opening(kEpoch, 0, {}));
  EXPECT_EQ(receive(), StatusCode::kOk);
  hang_up();
  EXPECT_EQ(receive(), StatusCode::kUnavailable);
  EXPECT_EQ(channel_->stats()[Path::kZmq].errors.load(), 0u);  // leaving is no error
}

// The socket sees the end first, the watch a moment later; it knows why.
TEST_F(HostileSocketPeer, end_of_a_connection_is_the_watchs_to_explain) {
  hang_up();
  watch_.looks_left = 4;
  const Status ended = channel_->receive(sizes_in, soon()).status();
  EXPECT_EQ(ended.message(), "the peer died");
}

TEST_F(HostileSocketPeer, trickle_of_a_dead_peer_ends_no_later) {
  raw_send(sockets_.runner, opening(kEpoch, 0, {kBulk}));
  EXPECT_EQ(channel_->receive(sizes_in, shortly()).status().code(), StatusCode::kDeadlineExceeded);
  const std::array<std::uint8_t, 9> head{2,           0, 0, 0, 0, 0, kBulk >> 16, kBulk >> 8 & 0xff,
                                         kBulk & 0xff};
  ASSERT_EQ(::write(sockets_.runner_connection.get(), head.data(), head.size()),
            static_cast<ssize_t>(head.size()));
  watch_.dead = true;
  std::atomic<bool> ended{false};
  std::thread trickle([&] {
    const std::byte one{1};
    while (!ended && ::write(sockets_.runner_connection.get(), &one, 1) == 1)
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
  });
  const Deadline patience = Deadline::after(std::chrono::seconds(20));
  EXPECT_EQ(channel_->receive(sizes_in, patience).status().code(), StatusCode::kUnavailable);
  ended = true;
  trickle.join();
}

TEST_F(HostileSocketPeer, last_message_of_a_dead_peer_is_still_received) {
  raw_send(sockets_.runner, opening(kEpoch, 0, {}));
  watch_.dead = true;
  EXPECT_EQ(receive(), StatusCode::kOk);
  EXPECT_EQ(receive(), StatusCode::kUnavailable);
}

class HostileRingPeer : public testing::Test {
 protected:
  HostileRingPeer()
      : sockets_(Transport::kIpc),
        channel_(make_end(std::move(sockets_.server), &watch_, rings_.reply, rings_.request)),
        ring_(RingProducer::create(*rings_.request, kGeometry, kEpoch).value()) {}
  /// A message of so many slots.
  void publish(const Bytes& header, std::size_t slot_count) {
    auto slots = ring_.claim(slot_count, soon(), {});
    ASSERT_TRUE(slots.ok());
    ASSERT_TRUE(ring_.commit(*slots, header).ok());
  }
  /// Of slot 0, where the first message lies.
  ring_layout::SlotHeader& slot_header() {
    std::byte* const control = rings_.request->bytes().data() + sizeof(ring_layout::Superblock);
    return reinterpret_cast<ring_layout::SlotControl*>(control)->header;
  }
  void expect_poisoned(Path path) {
    EXPECT_EQ(channel_->receive(sizes_in, soon()).status().code(), StatusCode::kProtocolError);
    EXPECT_EQ(channel_->prepare({}, soon()).status().code(), StatusCode::kProtocolError);
    EXPECT_EQ(channel_->stats()[path].errors.load(), 1u);
  }

  Watch watch_;
  SocketPair sockets_;
  RingPair rings_;
  std::unique_ptr<Channel> channel_;
  RingProducer ring_;
};

TEST_F(HostileRingPeer, wrong_epoch_ends_the_session) {
  publish(header_of(0, {}), 1);
  slot_header().epoch = kEpoch + 1;
  expect_poisoned(Path::kRing);
}
TEST_F(HostileRingPeer, wrong_sequence_ends_the_session) {
  publish(header_of(0, {}), 1);
  slot_header().sequence = 4;
  expect_poisoned(Path::kRing);
}
TEST_F(HostileRingPeer, junk_header_ends_the_session) {
  publish(Bytes(500, std::byte{0xee}), 1);
  expect_poisoned(Path::kRing);
}
TEST_F(HostileRingPeer, empty_header_ends_the_session) {
  publish({}, 1);
  expect_poisoned(Path::kRing);
}
TEST_F(HostileRingPeer, header_over_the_limit_ends_the_session) {
  Bytes header = header_of(0, {});
  header.resize(limits::kMaxEncodedHeaderBytes + 1);
  publish(header, 1);
  expect_poisoned(Path::kRing);
}
TEST_F(HostileRingPeer, fewer_slots_than_ring_tensors_end_the_session) {
  publish(header_of(0, {100, 100}), 1);
  expect_poisoned(Path::kRing);
}
TEST_F(HostileRingPeer, more_slots_than_ring_tensors_end_the_session) {
  publish(header_of(0, {}), 2);
  expect_poisoned(Path::kRing);
}
TEST_F(HostileRingPeer, slot_for_a_tensor_that_takes_the_socket_ends_the_session) {
  publish(header_of(0, {100, kBulk}), 2);
  expect_poisoned(Path::kRing);
}
TEST_F(HostileRingPeer, tensors_of_another_session_end_it_as_an_error_of_zmq) {
  publish(header_of(0, {kBulk}), 1);
  raw_send(sockets_.runner, bare_opening(kEpoch + 1, 0));
  expect_poisoned(Path::kZmq);
}
TEST_F(HostileRingPeer, tensors_of_another_message_end_the_session_as_an_error_of_zmq) {
  publish(header_of(0, {}), 1);
  EXPECT_TRUE(channel_->receive(sizes_in, soon()).ok());
  publish(header_of(0, {kBulk}), 1);
  raw_send(sockets_.runner, bare_opening(kEpoch, 0));  // the message before had none
  expect_poisoned(Path::kZmq);
}
TEST_F(HostileRingPeer, second_header_on_the_socket_ends_the_session_as_an_error_of_zmq) {
  publish(header_of(0, {kBulk}), 1);
  raw_send(sockets_.runner, opening(kEpoch, 0, {kBulk}));
  expect_poisoned(Path::kZmq);
}
TEST_F(HostileRingPeer, short_tensor_on_the_socket_ends_the_session_as_an_error_of_zmq) {
  publish(header_of(0, {kBulk}), 1);
  raw_send(sockets_.runner, bare_opening(kEpoch, 0));
  raw_send(sockets_.runner, Bytes(kBulk - 1));
  expect_poisoned(Path::kZmq);
}
TEST_F(HostileRingPeer, slots_of_a_refused_message_are_not_read) {
  publish(header_of(0, {limits::kMaxTensorBytes}), 1);
  const Accept refuse = [](std::span<const std::byte>) -> Result<Sizes> {
    return Status(StatusCode::kProtocolError, "too large");
  };
  EXPECT_EQ(channel_->receive(refuse, soon()).status().message(), "too large");
  EXPECT_EQ(channel_->stats()[Path::kRing].received.messages.load(), 0u);
}
TEST_F(HostileRingPeer, dead_peer_ends_a_wait_for_a_message_and_for_a_slot) {
  watch_.dead = true;
  EXPECT_EQ(channel_->receive(sizes_in, soon()).status().code(), StatusCode::kUnavailable);
  EXPECT_EQ(channel_->prepare({}, soon()).status().code(), StatusCode::kUnavailable);
}

}  // namespace
}  // namespace airlock
