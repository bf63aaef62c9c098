// What every Channel must do, run on each implementation.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "tests/channel/channel_rigs.h"
#include "tests/support/sanitizer.h"

namespace airlock {
namespace {

using testing_rigs::header_of;
using testing_rigs::Rig;
using testing_rigs::shortly;
using testing_rigs::sizes_in;
using testing_rigs::soon;

using Sizes = std::vector<std::size_t>;
constexpr std::size_t kLimit = testing_rigs::kGeometry.slot_bytes;
// More than any socket's buffers; a sanitizer takes minutes for more.
constexpr std::size_t kLarge = std::size_t{AIRLOCK_ASAN || AIRLOCK_TSAN ? 16 : 64} << 20;

struct Implementation {
  std::string name;
  std::function<Rig()> make;
};

void fill(std::span<std::byte> bytes, std::uint64_t seed) {
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    bytes[i] = static_cast<std::byte>((i * 31 + i / 4096 + seed * 7) & 0xff);
  }
}

bool holds(std::span<const std::byte> bytes, std::uint64_t seed) {
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    if (bytes[i] != static_cast<std::byte>((i * 31 + i / 4096 + seed * 7) & 0xff)) return false;
  }
  return true;
}

std::unique_ptr<Message> prepare(Channel& channel, const Sizes& sizes, std::uint64_t seed) {
  auto message = channel.prepare(sizes, soon());
  EXPECT_TRUE(message.ok()) << message.status().to_string();
  if (!message.ok()) return nullptr;
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    const std::span<std::byte> place = (*message)->tensor(i);
    EXPECT_EQ(place.size(), sizes[i]);
    EXPECT_TRUE(place.empty() || reinterpret_cast<std::uintptr_t>(place.data()) % 64 == 0);
    fill(place, seed + i);
  }
  return std::move(message).value();
}

void send(Channel& channel, const Sizes& sizes, std::uint64_t seed) {
  auto message = prepare(channel, sizes, seed);
  ASSERT_NE(message, nullptr);
  const Status sent = channel.send(*message, header_of(seed, sizes), soon());
  ASSERT_TRUE(sent.ok()) << sent.to_string();
}

void expect_message(const ReceivedMessage& message, const Sizes& sizes, std::uint64_t seed) {
  EXPECT_TRUE(std::ranges::equal(message.header(), header_of(seed, sizes)));
  ASSERT_EQ(message.tensor_count(), sizes.size());
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    EXPECT_EQ(message.tensor(i).size(), sizes[i]);
    EXPECT_TRUE(holds(message.tensor(i), seed + i)) << "tensor " << i << " of message " << seed;
  }
}

std::unique_ptr<ReceivedMessage> receive(Channel& channel, const Sizes& sizes, std::uint64_t seed) {
  auto message = channel.receive(
      [&](std::span<const std::byte> header) {
        EXPECT_TRUE(std::ranges::equal(header, header_of(seed, sizes)));
        return sizes_in(header);
      },
      soon());
  EXPECT_TRUE(message.ok()) << message.status().to_string();
  if (!message.ok()) return nullptr;
  expect_message(**message, sizes, seed);
  return std::move(message).value();
}

void expect_reconciled(TransportStats& from, TransportStats& to) {
  for (const Path path : {Path::kRing, Path::kZmq}) {
    EXPECT_EQ(from[path].sent.messages.load(), to[path].received.messages.load());
    EXPECT_EQ(from[path].sent.tensors.load(), to[path].received.tensors.load());
    EXPECT_EQ(from[path].sent.bytes.load(), to[path].received.bytes.load());
  }
}

class ChannelConformance : public testing::TestWithParam<Implementation> {
 protected:
  ChannelConformance() : rig_(GetParam().make()) {}
  Channel& server() { return *rig_.server; }
  Channel& runner() { return *rig_.runner; }
  /// One message to the server and the same sizes back, the ends in two threads.
  void round_trip(const Sizes& sizes, std::uint64_t seed) {
    std::thread peer([&] {
      receive(server(), sizes, seed);
      send(server(), sizes, seed + 100);
    });
    send(runner(), sizes, seed);
    receive(runner(), sizes, seed + 100);
    peer.join();
  }

  Rig rig_;
};

TEST_P(ChannelConformance, carries_a_message_without_tensors) { round_trip({}, 1); }
TEST_P(ChannelConformance, carries_a_tensor_of_zero_bytes) { round_trip({0, 5, 0}, 2); }
TEST_P(ChannelConformance, carries_sizes_around_the_limit) {
  for (const std::size_t size : {kLimit - 1, kLimit, kLimit + 1}) round_trip({size}, size);
}
TEST_P(ChannelConformance, carries_sizes_around_the_frame) {
  std::vector<std::size_t> sizes = {limits::kFrameBytes - 1, limits::kFrameBytes,
                                    limits::kFrameBytes + 1, 2 * limits::kFrameBytes};
  if (!AIRLOCK_ASAN && !AIRLOCK_TSAN) {
    for (const std::size_t more : {limits::kStripeBytes - 1, limits::kStripeBytes,
                                   limits::kStripeBytes + 1, 3 * limits::kStripeBytes})
      sizes.push_back(more);
  }
  for (const std::size_t size : sizes) {
    round_trip({size}, size);
  }
}
TEST_P(ChannelConformance, carries_small_and_large_tensors_in_one_message) {
  round_trip({10, kLimit, 100, 3 * limits::kFrameBytes + 7, 1000, 10000, 20, 30}, 3);
}

TEST_P(ChannelConformance, carries_small_tensors_of_any_number) {
  round_trip({1}, 4);
  round_trip({63, 64, 65, 0, 4999, 5000, 19999, 20000}, 5);
  round_trip(Sizes(8, 4999), 6);
  round_trip(Sizes(8, 19999), 7);
  round_trip({0}, 8);
}

TEST_P(ChannelConformance, carries_the_longest_header) {
  std::vector<std::byte> header = header_of(0, {});
  header.resize(limits::kMaxEncodedHeaderBytes, std::byte{9});
  auto message = runner().prepare({}, soon());
  ASSERT_TRUE(message.ok());
  ASSERT_TRUE(runner().send(**message, header, soon()).ok());
  auto received = server().receive(sizes_in, soon());
  ASSERT_TRUE(received.ok()) << received.status().to_string();
  EXPECT_TRUE(std::ranges::equal((*received)->header(), header));
}

TEST_P(ChannelConformance, carries_small_tensors_behind_headers_of_any_length) {
  const Sizes sizes{100, 3000};
  for (std::size_t bytes = header_of(0, sizes).size(); bytes <= limits::kMaxEncodedHeaderBytes;
       bytes += 37) {
    std::vector<std::byte> header = header_of(0, sizes);
    header.resize(bytes, std::byte{9});
    auto message = prepare(runner(), sizes, bytes);
    ASSERT_TRUE(runner().send(*message, header, soon()).ok());
    auto received = server().receive(sizes_in, soon());
    ASSERT_TRUE(received.ok()) << received.status().to_string();
    EXPECT_TRUE(std::ranges::equal((*received)->header(), header));
    EXPECT_TRUE(holds((*received)->tensor(0), bytes) && holds((*received)->tensor(1), bytes + 1));
  }
}

TEST_P(ChannelConformance, carries_many_messages_both_ways_and_reconciles) {
  constexpr std::uint64_t kCount = 300;
  const auto sizes_of = [](std::uint64_t i) {
    Sizes sizes;
    for (std::uint64_t k = 0; k < i % 6; ++k)
      sizes.push_back((i * 7919 + k * 104729) % (2 * kLimit));
    return sizes;
  };
  std::thread peer([&] {
    for (std::uint64_t i = 0; i < kCount; ++i) {
      const auto lease = receive(server(), sizes_of(i), i);
      send(server(), sizes_of(i + 1), i + 1);
    }
  });
  for (std::uint64_t i = 0; i < kCount; ++i) {
    send(runner(), sizes_of(i), i);
    receive(runner(), sizes_of(i + 1), i + 1);
  }
  peer.join();
  expect_reconciled(runner().stats(), server().stats());
  expect_reconciled(server().stats(), runner().stats());
  const Path header = runner().policy().header_path();
  EXPECT_EQ(runner().stats()[header].sent.messages.load(), kCount);
  EXPECT_EQ(runner().stats()[header].errors.load(), 0u);
}

TEST_P(ChannelConformance, books_each_tensor_on_its_own_path) {
  const Sizes sizes{100, kLimit, 200};
  const MessagePlan plan = plan_message(runner().policy(), sizes).value();
  round_trip(sizes, 4);
  std::uint64_t ring_bytes = 0;
  for (const MessagePlan::Tensor& tensor : plan.tensors()) {
    if (tensor.path == Path::kRing) ring_bytes += tensor.bytes;
  }
  EXPECT_EQ(runner().stats()[Path::kRing].sent.bytes.load(), ring_bytes);
  EXPECT_EQ(runner().stats()[Path::kZmq].sent.bytes.load(), 300 + kLimit - ring_bytes);
}

TEST_P(ChannelConformance, hands_the_plan_to_both_ends) {
  const Sizes sizes{100, kLimit, 0};
  const MessagePlan plan = plan_message(runner().policy(), sizes).value();
  auto message = prepare(runner(), sizes, 1);
  EXPECT_EQ(message->plan(), plan);
  ASSERT_TRUE(runner().send(*message, header_of(1, sizes), soon()).ok());
  EXPECT_EQ(receive(server(), sizes, 1)->plan(), plan);
}

TEST_P(ChannelConformance, refuses_tensors_that_the_header_does_not_imply) {
  auto message = prepare(runner(), {100, 200}, 1);
  ASSERT_TRUE(runner().send(*message, header_of(1, {100, 200, 30000}), soon()).ok());
  send(runner(), {}, 2);
  EXPECT_EQ(server().receive(sizes_in, soon()).status().code(), StatusCode::kProtocolError);
  EXPECT_EQ(server().prepare({}, soon()).status().code(), StatusCode::kProtocolError);
}

TEST_P(ChannelConformance, sends_prepared_messages_in_any_order) {
  auto first = prepare(runner(), {100}, 1);
  auto second = prepare(runner(), {200, kLimit}, 2);
  auto third = prepare(runner(), {300}, 3);
  ASSERT_TRUE(runner().send(*third, header_of(3, {300}), soon()).ok());
  ASSERT_TRUE(runner().send(*first, header_of(1, {100}), soon()).ok());
  ASSERT_TRUE(runner().send(*second, header_of(2, {200, kLimit}), soon()).ok());
  receive(server(), {300}, 3);
  receive(server(), {100}, 1);
  receive(server(), {200, kLimit}, 2);
}

TEST_P(ChannelConformance, dropping_a_prepared_message_frees_its_places) {
  for (std::uint64_t i = 0; i < 100; ++i) {
    auto message = prepare(runner(), {1, 2, 3}, i);
    ASSERT_NE(message, nullptr);
  }
  send(runner(), {5}, 1);
  receive(server(), {5}, 1);
  EXPECT_EQ(runner().stats()[runner().policy().header_path()].sent.messages.load(), 1u);
}

TEST_P(ChannelConformance, held_leases_keep_their_bytes_and_block_nobody) {
  constexpr std::uint64_t kCount = 40;
  std::vector<std::unique_ptr<ReceivedMessage>> leases;
  for (std::uint64_t i = 0; i < kCount; ++i) {
    send(runner(), {100, 200 + i}, i);
    leases.push_back(receive(server(), {100, 200 + i}, i));
  }
  for (std::uint64_t i = 0; i < kCount; ++i) expect_message(*leases[i], {100, 200 + i}, i);
}

TEST_P(ChannelConformance, accept_refusal_ends_the_session_with_its_status) {
  send(runner(), {8}, 1);
  const Accept refuse = [](std::span<const std::byte>) -> Result<Sizes> {
    return Status(StatusCode::kProtocolError, "not what was expected");
  };
  EXPECT_EQ(server().receive(refuse, soon()).status().message(), "not what was expected");
  EXPECT_EQ(server().receive(sizes_in, soon()).status().message(), "not what was expected");
  EXPECT_EQ(server().prepare({}, soon()).status().message(), "not what was expected");
  const PathStats& stats = server().stats()[server().policy().header_path()];
  EXPECT_EQ(stats.errors.load(), 1u);
  EXPECT_EQ(stats.received.messages.load(), 0u);
}

TEST_P(ChannelConformance, receive_gives_up_at_its_deadline_and_works_again) {
  EXPECT_EQ(server().receive(sizes_in, Deadline::now()).status().code(),
            StatusCode::kDeadlineExceeded);
  EXPECT_EQ(server().receive(sizes_in, shortly()).status().code(), StatusCode::kDeadlineExceeded);
  round_trip({10}, 1);
}

TEST_P(ChannelConformance, backpressure_is_a_normal_result_and_ends_when_the_peer_receives) {
  const Sizes sizes{60000};
  std::uint64_t sent = 0;
  std::unique_ptr<Message> waiting;
  for (; sent < 10000; ++sent) {
    auto message = runner().prepare(sizes, shortly());
    if (!message.ok()) {
      ASSERT_EQ(message.status().code(), StatusCode::kBusy);
      break;
    }
    waiting = std::move(message).value();
    fill(waiting->tensor(0), sent);
    const Status status = runner().send(*waiting, header_of(sent, sizes), shortly());
    if (!status.ok()) {
      ASSERT_EQ(status.code(), StatusCode::kBusy);
      break;
    }
    waiting.reset();
  }
  ASSERT_LT(sent, 10000u);
  std::thread peer([&] {
    for (std::uint64_t i = 0; i <= sent; ++i) receive(server(), sizes, i);
  });
  if (waiting != nullptr) {
    EXPECT_TRUE(runner().send(*waiting, header_of(sent, sizes), soon()).ok());
  } else {
    send(runner(), sizes, sent);
  }
  peer.join();
  expect_reconciled(runner().stats(), server().stats());
}

/// Sends in short tries and receives in between, as one end of a symmetric exchange.
void exchange(Channel& channel, std::uint64_t out_seed, std::uint64_t in_seed) {
  const Sizes sizes{kLarge, 100};
  auto message = prepare(channel, sizes, out_seed);
  ASSERT_NE(message, nullptr);
  bool sent = false;
  bool received = false;
  const Deadline end = soon();
  while (!(sent && received) && !end.expired()) {
    if (!sent) {
      const Status status = channel.send(*message, header_of(out_seed, sizes),
                                         Deadline::after(std::chrono::milliseconds(1)));
      ASSERT_TRUE(status.ok() || status.code() == StatusCode::kBusy) << status.to_string();
      sent = status.ok();
    }
    if (!received) {
      auto got = channel.receive(sizes_in, Deadline::after(std::chrono::milliseconds(1)));
      ASSERT_TRUE(got.ok() || got.status().code() == StatusCode::kDeadlineExceeded)
          << got.status().to_string();
      received = got.ok();
      if (received) expect_message(**got, sizes, in_seed);
    }
  }
  EXPECT_TRUE(sent && received);
}

TEST_P(ChannelConformance, both_ends_send_at_once_more_than_buffers_hold_without_deadlock) {
  std::thread peer([&] { exchange(server(), 1, 2); });
  exchange(runner(), 2, 1);
  peer.join();
  expect_reconciled(runner().stats(), server().stats());
  expect_reconciled(server().stats(), runner().stats());
}

TEST_P(ChannelConformance, a_blocking_receive_goes_on_with_the_half_sent_message) {
  const Sizes sizes{2 * kLarge};
  const auto send_a_bit_then_receive = [&](Channel& channel, std::uint64_t out, std::uint64_t in) {
    auto message = prepare(channel, sizes, out);
    ASSERT_NE(message, nullptr);
    Status status = channel.send(*message, header_of(out, sizes), Deadline::now());
    receive(channel, sizes, in);  // blocks until the peer's whole message is there
    for (int i = 0; !status.ok() && i < 1000; ++i) {
      status = channel.send(*message, header_of(out, sizes), soon());
    }
    EXPECT_TRUE(status.ok());
  };
  std::thread peer([&] { send_a_bit_then_receive(server(), 1, 2); });
  send_a_bit_then_receive(runner(), 2, 1);
  peer.join();
}

TEST_P(ChannelConformance, a_message_dropped_half_sent_still_leaves_before_the_next) {
  const Sizes sizes{2 * kLarge, 10};
  auto dropped = prepare(runner(), sizes, 1);
  ASSERT_NE(dropped, nullptr);
  const Status status = runner().send(*dropped, header_of(1, sizes), Deadline::now());
  ASSERT_TRUE(status.ok() || status.code() == StatusCode::kBusy) << status.to_string();
  dropped.reset();
  std::thread peer([&] {
    receive(server(), sizes, 1);
    receive(server(), {5, kLimit}, 2);
  });
  send(runner(), {5, kLimit}, 2);
  peer.join();
  expect_reconciled(runner().stats(), server().stats());
}

TEST_P(ChannelConformance, refuses_sizes_beyond_the_limits) {
  EXPECT_EQ(runner().prepare(Sizes(9, 1), soon()).status().code(), StatusCode::kInvalidInput);
  EXPECT_EQ(runner().prepare(Sizes{limits::kMaxTensorBytes + 1}, soon()).status().code(),
            StatusCode::kInvalidInput);
  round_trip({1}, 1);
}

std::vector<Implementation> implementations() {
  using testing_rigs::Transport;
  std::vector<Implementation> all = {
      {"InProcess", testing_rigs::make_in_process_rig},
      {"RingAndSocket", [] { return testing_rigs::make_ring_rig(); }},
      {"RingInline", [] { return testing_rigs::make_ring_rig(nullptr, 5000); }},
      {"SocketInline",
       [] { return testing_rigs::make_socket_rig(Transport::kIpc, nullptr, 20000); }},
      {"SocketIpc", [] { return testing_rigs::make_socket_rig(Transport::kIpc); }},
      {"SocketTcp", [] { return testing_rigs::make_socket_rig(Transport::kTcp); }}};
  // Minutes of it under a sanitizer, which sees these threads in data_sockets_test.
  if (AIRLOCK_ASAN || AIRLOCK_TSAN) return all;
  all.push_back({"TwoSockets", [] { return testing_rigs::make_lanes_rig(1, false); }});
  all.push_back(
      {"FourSocketsInline", [] { return testing_rigs::make_lanes_rig(3, false, nullptr, 20000); }});
  all.push_back({"RingAndThreeSockets", [] { return testing_rigs::make_lanes_rig(2, true); }});
  return all;
}

INSTANTIATE_TEST_SUITE_P(Implementations, ChannelConformance, testing::ValuesIn(implementations()),
                         [](const testing::TestParamInfo<Implementation>& each) {
                           return each.param.name;
                         });

}  // namespace
}  // namespace airlock
