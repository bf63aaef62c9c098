#include <csignal>
#include <functional>

#include "tests/shm/ring_fixture.h"

namespace airlock {
namespace {

using ring_layout::SlotControl;

StatusCode receive_code(TestRing& ring) {
  return ring.consumer->receive(Deadline::now(), {}).status().code();
}

/// An honest message, then what the peer does to slot 0, then a receive: poisoned for good.
void expect_refused(const std::function<void(SlotControl&)>& tamper) {
  TestRing ring;
  ASSERT_TRUE(send(*ring.producer, "header", {"payload"}).ok());
  tamper(*ring.control(0));
  EXPECT_EQ(receive_code(ring), StatusCode::kProtocolError);
  EXPECT_EQ(receive_code(ring), StatusCode::kProtocolError);
}

TEST(HostileProducer, unknown_flags) {
  expect_refused([](SlotControl& control) { control.flag = 2; });
  expect_refused([](SlotControl& control) { control.flag = 3; });
  expect_refused([](SlotControl& control) { control.flag = 0xFFFFFFFF; });
}

TEST(HostileProducer, another_epoch) {
  expect_refused([](SlotControl& control) { ++control.header.epoch; });
}

TEST(HostileProducer, sequences_out_of_the_window) {
  for (const std::uint64_t sequence : {std::uint64_t{0}, std::uint64_t{9}, ~std::uint64_t{0}}) {
    expect_refused([sequence](SlotControl& control) { control.header.sequence = sequence; });
  }
}

TEST(HostileProducer, gap_in_the_sequence) {
  expect_refused([](SlotControl& control) { control.header.sequence = 2; });
}

TEST(HostileProducer, replay_of_a_message) {
  TestRing ring;
  ASSERT_TRUE(send(*ring.producer, "a", {""}).ok());
  const auto old_header = ring.control(0)->header;
  release_all(*ring.consumer, ring.consumer->receive(soon(), {}).value());
  ASSERT_TRUE(send(*ring.producer, "b", {""}).ok());
  ring.control(0)->header = old_header;
  EXPECT_EQ(receive_code(ring), StatusCode::kProtocolError);
}

TEST(HostileProducer, one_sequence_twice) {
  TestRing ring;
  ASSERT_TRUE(send(*ring.producer, "a", {"", ""}).ok());
  ring.control(0)->header.sequence = 2;
  ring.control(0)->header.part_index = 1;
  ring.control(0)->header.header_bytes = 0;
  EXPECT_EQ(receive_code(ring), StatusCode::kProtocolError);
}

TEST(HostileProducer, header_too_large) {
  expect_refused([](SlotControl& control) { control.header.header_bytes = 4097; });
  expect_refused([](SlotControl& control) { control.header.header_bytes = 0xFFFFFFFF; });
}

TEST(HostileProducer, impossible_parts) {
  expect_refused([](SlotControl& control) { control.header.part_count = 0; });
  expect_refused([](SlotControl& control) { control.header.part_count = 5; });
  expect_refused(
      [](SlotControl& control) { control.header.part_count = 2; });  // the other is left out
  expect_refused([](SlotControl& control) { control.header.part_index = 1; });
  for (const std::size_t word : {0, 1, 2, 3}) {
    expect_refused([word](SlotControl& control) { control.header.reserved[word] = 1; });
  }
  expect_refused([](SlotControl& control) { control.header.reserved0 = 1; });
}

TEST(HostileProducer, parts_that_disagree) {
  TestRing ring;
  ASSERT_TRUE(send(*ring.producer, "a", {"", ""}).ok());
  ring.control(1)->header.part_count = 3;
  EXPECT_EQ(receive_code(ring), StatusCode::kProtocolError);
}

TEST(HostileProducer, header_on_a_later_part) {
  TestRing ring;
  ASSERT_TRUE(send(*ring.producer, "a", {"", ""}).ok());
  ring.control(1)->header.header_bytes = 1;
  EXPECT_EQ(receive_code(ring), StatusCode::kProtocolError);
}

TEST(HostilePeer, changed_superblock) {
  TestRing ring;
  ASSERT_TRUE(send(*ring.producer, "a", {""}).ok());
  ring.superblock()->identity.slot_bytes = 1 << 20;
  EXPECT_EQ(receive_code(ring), StatusCode::kProtocolError);
  EXPECT_EQ(ring.producer->claim(1, Deadline::now(), {}).status().code(),
            StatusCode::kProtocolError);
  EXPECT_EQ(RingConsumer::create(*ring.segment, ring.geometry, kTestEpoch).status().code(),
            StatusCode::kProtocolError);
}

TEST(HostilePeer, superblock_of_another_session_or_geometry) {
  TestRing ring;
  EXPECT_EQ(RingConsumer::create(*ring.segment, ring.geometry, 1).status().code(),
            StatusCode::kProtocolError);
  EXPECT_EQ(RingProducer::create(*ring.segment, {16, 4096}, kTestEpoch).status().code(),
            StatusCode::kProtocolError);
}

TEST(HostileConsumer, unknown_flags) {
  for (const std::uint32_t flag : {0u, 3u, 77u}) {
    TestRing ring;
    ASSERT_TRUE(send(*ring.producer, "a", {""}).ok());
    ring.control(0)->flag = flag;
    EXPECT_EQ(ring.producer->claim(1, Deadline::now(), {}).status().code(),
              StatusCode::kProtocolError);
    ring.control(0)->flag = 2;  // too late
    EXPECT_EQ(ring.producer->claim(1, Deadline::now(), {}).status().code(),
              StatusCode::kProtocolError);
  }
}

TEST(HostileConsumer, flag_of_a_free_slot) {
  TestRing ring;
  ring.control(0)->flag = 2;
  EXPECT_EQ(ring.producer->claim(1, Deadline::now(), {}).status().code(),
            StatusCode::kProtocolError);
}

/// Reads what came, all of it: ASan and the page after the mapping find what is out of bounds.
std::size_t read_all(const TestRing& ring, const RingConsumer& consumer,
                     const RingMessage& message) {
  const auto bytes = ring.segment->bytes();
  std::size_t sum = message.header.size();
  for (const std::uint32_t slot : message.slots) {
    const std::span<const std::byte> payload = consumer.payload(slot);
    EXPECT_GE(payload.data(), bytes.data());
    EXPECT_LE(payload.data() + payload.size(), bytes.data() + bytes.size());
    for (const std::byte b : payload) sum += std::to_integer<std::size_t>(b);
  }
  return sum;
}

std::uint32_t junk_word(std::mt19937& random) {
  switch (random() % 4) {
    case 0:
      return static_cast<std::uint32_t>(random() % 4);
    case 1:
      return static_cast<std::uint32_t>(random() % 5000);
    case 2:
      return 0xFFFFFFFF;
    default:
      return static_cast<std::uint32_t>(random());
  }
}

TEST(HostilePeer, random_junk_in_any_word_gives_a_status) {
  TestRing ring;
  const std::size_t control_words = 4096 + 8 * 128;
  for (std::uint32_t seed = 0; seed < 20'000; ++seed) {
    std::mt19937 random(seed);
    std::memset(ring.segment->bytes().data(), 0, control_words);
    ASSERT_TRUE(format_ring(*ring.segment, ring.geometry, kTestEpoch).ok());
    auto producer = RingProducer::create(*ring.segment, ring.geometry, kTestEpoch).value();
    auto consumer = RingConsumer::create(*ring.segment, ring.geometry, kTestEpoch).value();
    for (int step = 0; step < 12; ++step) {
      const Status sent =
          send(producer, "h", std::vector<std::string>(1 + random() % 4, "p"), Deadline::now());
      ASSERT_TRUE(sent.ok() || sent.code() == StatusCode::kProtocolError ||
                  sent.code() == StatusCode::kBusy);
      const std::size_t from =
          random() % 8 == 0 ? 0 : 4096;  // mostly the slots: the superblock is found at once
      for (auto i = random() % 3; i > 0; --i) {
        *ring.at<std::uint32_t>(from + random() % ((control_words - from) / 4) * 4) =
            junk_word(random);
      }
      auto message = consumer.receive(Deadline::now(), {});
      if (!message.ok()) {
        ASSERT_TRUE(message.status().code() == StatusCode::kProtocolError ||
                    message.status().code() == StatusCode::kDeadlineExceeded);
        continue;
      }
      read_all(ring, consumer, *message);
      for (const std::uint32_t slot : message->slots) {
        if (random() % 4 != 0) consumer.release(slot);
      }
    }
  }
}

TEST(HostilePeer, process_that_scribbles_all_the_time_gives_a_status) {
  TestRing ring;
  const pid_t peer = ::fork();
  ASSERT_GE(peer, 0);
  if (peer == 0) {
    std::mt19937 random(1);
    while (true) {
      const std::size_t word =
          random() % 3 == 0 ? 512 / 4 + random() % 128 : 4096 / 4 + random() % 256;
      *ring.at<volatile std::uint32_t>(word * 4) = junk_word(random);
    }
  }
  for (int i = 0; i < 3000; ++i) {
    // New ends each time: the old ones are poisoned at once. The flags go on as they are.
    auto producer = RingProducer::create(*ring.segment, ring.geometry, kTestEpoch).value();
    auto consumer = RingConsumer::create(*ring.segment, ring.geometry, kTestEpoch).value();
    for (std::uint32_t slot = 0; slot < 8; ++slot)
      *static_cast<volatile std::uint32_t*>(&ring.control(slot)->flag) = 0;
    (void)send(producer, "h", {"p", "q"}, Deadline::after(std::chrono::microseconds(50)));
    auto message = consumer.receive(Deadline::after(std::chrono::microseconds(50)), {});
    if (message.ok()) read_all(ring, consumer, *message);
  }
  ::kill(peer, SIGKILL);
  ::waitpid(peer, nullptr, 0);
}

}  // namespace
}  // namespace airlock
