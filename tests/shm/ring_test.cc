#include "shm/ring.h"

#include <thread>

#include "tests/shm/ring_fixture.h"

namespace airlock {
namespace {

TEST(Ring, delivers_header_and_parts_in_place) {
  TestRing ring;
  ASSERT_TRUE(send(*ring.producer, "header", {"one", "", "three"}).ok());
  auto message = ring.consumer->receive(soon(), {});
  ASSERT_TRUE(message.ok()) << message.status().to_string();
  EXPECT_TRUE(equals(*ring.consumer, *message, "header", {"one", "", "three"}));
  EXPECT_EQ(ring.consumer->held_slots(), 3u);
  const auto* begin = ring.segment->bytes().data();
  const std::span<const std::byte> payload = ring.consumer->payload(message->slots[0]);
  EXPECT_GE(payload.data(), begin);
  EXPECT_EQ(payload.size(), 4096u);
  EXPECT_LE(payload.data() + payload.size(), begin + ring.segment->bytes().size());
  release_all(*ring.consumer, *message);
  EXPECT_EQ(ring.consumer->held_slots(), 0u);
}

TEST(Ring, delivers_full_header_and_full_payload) {
  TestRing ring;
  const std::string header(limits::kHeaderBytes, 'h');
  const std::string payload(4096, 'p');
  ASSERT_TRUE(send(*ring.producer, header, {payload}).ok());
  EXPECT_TRUE(
      equals(*ring.consumer, ring.consumer->receive(soon(), {}).value(), header, {payload}));
}

TEST(Ring, delivers_in_the_order_of_commits_not_of_claims) {
  TestRing ring;
  const auto early = ring.producer->claim(1, soon(), {}).value();
  const auto late = ring.producer->claim(2, soon(), {}).value();
  ASSERT_TRUE(ring.producer->commit(late, text_bytes("late")).ok());
  ASSERT_TRUE(ring.producer->commit(early, text_bytes("early")).ok());
  EXPECT_EQ(to_text(ring.consumer->receive(soon(), {}).value().header), "late");
  EXPECT_EQ(to_text(ring.consumer->receive(soon(), {}).value().header), "early");
}

TEST(Ring, empty_ring_reports_deadline) {
  TestRing ring;
  EXPECT_EQ(ring.consumer->receive(Deadline::now(), {}).status().code(),
            StatusCode::kDeadlineExceeded);
  EXPECT_EQ(
      ring.consumer->receive(Deadline::after(std::chrono::milliseconds(2)), {}).status().code(),
      StatusCode::kDeadlineExceeded);
  ASSERT_TRUE(send(*ring.producer, "x", {""}).ok());
  EXPECT_TRUE(ring.consumer->receive(Deadline::now(), {}).ok());
}

TEST(Ring, full_ring_is_backpressure_and_counted) {
  TestRing ring;
  for (int i = 0; i < 8; ++i) ASSERT_TRUE(send(*ring.producer, std::to_string(i), {""}).ok());
  EXPECT_EQ(send(*ring.producer, "x", {""}, Deadline::now()).code(), StatusCode::kBusy);
  EXPECT_EQ(send(*ring.producer, "x", {""}, Deadline::after(std::chrono::milliseconds(2))).code(),
            StatusCode::kBusy);
  EXPECT_EQ(ring.producer->counters().slot_waits, 2u);
  release_all(*ring.consumer, ring.consumer->receive(soon(), {}).value());
  EXPECT_TRUE(send(*ring.producer, "8", {""}, Deadline::now()).ok());
  for (int i = 1; i < 9; ++i) {
    const RingMessage message = ring.consumer->receive(soon(), {}).value();
    EXPECT_EQ(to_text(message.header), std::to_string(i));
    release_all(*ring.consumer, message);
  }
}

TEST(Ring, failed_claim_takes_nothing) {
  TestRing ring;
  const auto held = ring.producer->claim(4, soon(), {}).value();
  const auto more = ring.producer->claim(2, soon(), {}).value();
  EXPECT_EQ(ring.producer->claim(3, Deadline::now(), {}).status().code(), StatusCode::kBusy);
  EXPECT_TRUE(ring.producer->claim(2, Deadline::now(), {}).ok());
}

TEST(Ring, aborted_slots_are_free_again_and_send_nothing) {
  TestRing ring;
  for (int i = 0; i < 100; ++i) {
    const auto slots = ring.producer->claim(4, Deadline::now(), {});
    ASSERT_TRUE(slots.ok());
    ring.producer->abort(*slots);
  }
  EXPECT_EQ(ring.consumer->receive(Deadline::now(), {}).status().code(),
            StatusCode::kDeadlineExceeded);
  ASSERT_TRUE(send(*ring.producer, "after", {"x"}).ok());
  EXPECT_TRUE(equals(*ring.consumer, ring.consumer->receive(soon(), {}).value(), "after", {"x"}));
}

TEST(Ring, slots_in_use_are_the_claimed_and_the_unreturned) {
  TestRing ring;
  EXPECT_EQ(ring.producer->slots_in_use(), 0u);
  ASSERT_TRUE(send(*ring.producer, "x", {"a", "b"}).ok());
  const auto claimed = ring.producer->claim(3, soon(), {}).value();
  EXPECT_EQ(ring.producer->slots_in_use(), 5u);
  ring.producer->abort(claimed);
  auto message = ring.consumer->receive(soon(), {}).value();
  EXPECT_EQ(ring.producer->slots_in_use(), 2u);
  ring.consumer->release(message.slots[0]);
  EXPECT_EQ(ring.producer->slots_in_use(), 1u);
}

TEST(Ring, check_ends_both_waits) {
  TestRing ring;
  const WaitCheck dead = [] { return Status(StatusCode::kUnavailable, "the peer died"); };
  EXPECT_EQ(ring.consumer->receive(soon(), dead).status().code(), StatusCode::kUnavailable);
  for (int i = 0; i < 8; ++i) ASSERT_TRUE(send(*ring.producer, "x", {""}).ok());
  EXPECT_EQ(ring.producer->claim(1, soon(), dead).status().code(), StatusCode::kUnavailable);
  EXPECT_TRUE(
      ring.consumer->receive(soon(), dead).ok());  // what came before the death is still read
}

TEST(Ring, slot_held_forever_blocks_nobody) {
  TestRing ring;
  ASSERT_TRUE(send(*ring.producer, "held", {"kept bytes"}).ok());
  const RingMessage held = ring.consumer->receive(soon(), {}).value();
  ASSERT_EQ(held.slots[0], 0u);
  for (int i = 0; i < 1000; ++i) {
    const std::string header = std::to_string(i);
    const std::vector<std::string> payloads(1 + static_cast<std::size_t>(i) % 4, header);
    ASSERT_TRUE(send(*ring.producer, header, payloads, Deadline::now()).ok()) << i;
    const auto message = ring.consumer->receive(Deadline::now(), {});
    ASSERT_TRUE(message.ok()) << i << message.status().to_string();
    ASSERT_TRUE(equals(*ring.consumer, *message, header, payloads));
    release_all(*ring.consumer, *message);
  }
  EXPECT_EQ(payload_text(*ring.consumer, 0, 10), "kept bytes");
}

TEST(Ring, half_the_slots_held_in_any_place_leaves_room_for_the_largest_message) {
  for (std::uint32_t seed = 0; seed < 20; ++seed) {
    TestRing ring;
    std::mt19937 random(seed);
    std::vector<std::uint32_t> held;
    for (int i = 0; i < 200; ++i) {
      ASSERT_TRUE(send(*ring.producer, "m", std::vector<std::string>(4, "x"), Deadline::now()).ok())
          << seed;
      const RingMessage message = ring.consumer->receive(Deadline::now(), {}).value();
      for (const std::uint32_t slot : message.slots) held.push_back(slot);
      std::shuffle(held.begin(), held.end(), random);
      const std::size_t keep = random() % 5;  // never more than half
      while (held.size() > keep) {
        ring.consumer->release(held.back());
        held.pop_back();
      }
    }
  }
}

TEST(Ring, flag_counts_turns) {
  TestRing ring;
  for (int i = 0; i < 100'000; ++i) {
    ASSERT_TRUE(send(*ring.producer, "", {""}, Deadline::now()).ok());
    const auto message = ring.consumer->receive(Deadline::now(), {});
    ASSERT_TRUE(message.ok());
    release_all(*ring.consumer, *message);
  }
  EXPECT_EQ(ring.control(0)->flag, 200'000u);
}

void exchange_between_threads(WaitMode mode, int message_count) {
  TestRing ring({8, 8192}, mode);
  std::thread sender([&ring, message_count] {
    MessageMaker maker(7, ring.geometry);
    for (int i = 0; i < message_count; ++i) {
      const auto [header, payloads] = maker.next();
      ASSERT_TRUE(send(*ring.producer, header, payloads).ok());
    }
  });
  MessageMaker maker(7, ring.geometry);
  std::vector<std::uint32_t> held;
  for (int i = 0; i < message_count; ++i) {
    const auto [header, payloads] = maker.next();
    const auto message = ring.consumer->receive(soon(), {});
    ASSERT_TRUE(message.ok()) << message.status().to_string();
    ASSERT_TRUE(equals(*ring.consumer, *message, header, payloads)) << i;
    for (const std::uint32_t slot : message->slots) held.push_back(slot);
    while (held.size() > 4) {
      ring.consumer->release(held.front());
      held.erase(held.begin());
    }
  }
  sender.join();
}

TEST(Ring, two_threads_exchange_random_messages) {
  exchange_between_threads(WaitMode::kFutex, 2000);
}

TEST(Ring, two_threads_exchange_random_messages_without_futex) {
  exchange_between_threads(WaitMode::kSleep, 500);
}

TEST(Ring, two_threads_play_ping_pong) {
  TestRing there;
  TestRing back;
  std::thread peer([&] {
    for (int i = 0; i < 5000; ++i) {
      const auto message = there.consumer->receive(soon(), {});
      ASSERT_TRUE(message.ok());
      ASSERT_TRUE(send(*back.producer, to_text(message->header),
                       {payload_text(*there.consumer, message->slots[0], 4)})
                      .ok());
      release_all(*there.consumer, *message);
    }
  });
  for (int i = 0; i < 5000; ++i) {
    ASSERT_TRUE(send(*there.producer, std::to_string(i), {"ball"}).ok());
    const auto message = back.consumer->receive(soon(), {});
    ASSERT_TRUE(message.ok());
    ASSERT_TRUE(equals(*back.consumer, *message, std::to_string(i), {"ball"}));
    release_all(*back.consumer, *message);
  }
  peer.join();
}

}  // namespace
}  // namespace airlock
