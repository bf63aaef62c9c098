// What the peer can change is fetched once in each operation, by the ring and by the channel above
// it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/channel/channel_rigs.h"
#include "tests/model_check/fetch_counter.h"
#include "tests/model_check/fetch_paths.h"

namespace airlock {
namespace {

using namespace testing_rigs;

TEST(Fetches, the_ring_fetches_no_word_twice_in_one_operation) {
  EXPECT_THAT(fetched_twice_by_the_ring(), testing::IsEmpty());
}

/// Both ends of a channel over two rings, whose fetches are counted.
struct CountedChannel {
  CountedChannel() {
    shared::observer = &counter;
    rings.emplace();
    server = make_end(std::move(sockets.server), nullptr, rings->reply, rings->request);
    runner = make_end(std::move(sockets.runner), nullptr, rings->request, rings->reply);
    counter.watch(rings->request, kGeometry);
    counter.watch(rings->reply, kGeometry);
  }
  ~CountedChannel() {
    runner.reset();
    server.reset();
    shared::observer = nullptr;
  }

  bool in_a_ring(const void* address) const {
    for (const auto& segment : {rings->request, rings->reply}) {
      const auto bytes = segment->bytes();
      if (address >= bytes.data() && address < bytes.data() + bytes.size()) return true;
    }
    return false;
  }
  void send(std::uint64_t number, const std::vector<std::size_t>& sizes) {
    counter.begin("send", 2);
    auto message = runner->prepare(sizes, soon());
    ASSERT_TRUE(message.ok()) << message.status().to_string();
    ASSERT_TRUE(runner->send(**message, header_of(number, sizes), soon()).ok());
    EXPECT_THAT(counter.end(), testing::IsEmpty());
  }
  std::unique_ptr<ReceivedMessage> receive(std::uint64_t number) {
    counter.begin("receive", 0);
    auto message = server->receive(
        [this](std::span<const std::byte> header) {
          EXPECT_FALSE(in_a_ring(header.data()))
              << "the header is decoded where the peer can write";
          return sizes_in(header);
        },
        soon());
    EXPECT_THAT(counter.end(), testing::IsEmpty());
    EXPECT_GE(counter.fetched_bytes(), sizeof(ring_layout::RingIdentity) +
                                           sizeof(ring_layout::SlotHeader) +
                                           (message.ok() ? (*message)->header().size() : 0));
    EXPECT_TRUE(message.ok()) << message.status().to_string();
    if (!message.ok()) return nullptr;
    EXPECT_FALSE(in_a_ring((*message)->header().data()));
    std::uint64_t found = 0;
    std::memcpy(&found, (*message)->header().data(), sizeof(found));
    EXPECT_EQ(found, number);
    return std::move(message).value();
  }

  FetchCounter counter;
  SocketPair sockets{Transport::kIpc};
  std::optional<RingPair> rings;
  std::unique_ptr<Channel> server;
  std::unique_ptr<Channel> runner;
};

TEST(Fetches, the_channel_copies_each_header_once) {
  CountedChannel channel;
  std::uint64_t number = 0;
  // Without tensors, in one slot, in several, and with one that takes the socket.
  for (const std::vector<std::size_t>& sizes :
       {std::vector<std::size_t>{}, {100}, {65535, 1, 4096}, {100, 1 << 20}}) {
    ASSERT_NO_FATAL_FAILURE(channel.send(number, sizes));
    ASSERT_NE(channel.receive(number++), nullptr);
  }
}

TEST(Fetches, leases_beyond_half_of_the_slots_are_copied_out_and_fetch_no_word_again) {
  CountedChannel channel;
  std::vector<std::unique_ptr<ReceivedMessage>> held;
  for (std::uint64_t number = 0; number < 6; ++number) {
    ASSERT_NO_FATAL_FAILURE(channel.send(number, {100}));
    held.push_back(channel.receive(number));
    ASSERT_NE(held.back(), nullptr);
  }
  EXPECT_TRUE(channel.in_a_ring(held.front()->tensor(0).data()));
  EXPECT_FALSE(channel.in_a_ring(held.back()->tensor(0).data()));
}

}  // namespace
}  // namespace airlock
