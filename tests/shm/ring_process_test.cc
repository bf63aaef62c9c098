#include <csignal>

#include "tests/shm/ring_fixture.h"

namespace airlock {
namespace {

/// Runs `body` in a child process, which must return true.
pid_t in_child(const std::function<bool()>& body) {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(body() ? 0 : 1);
  return child;
}

bool ended_well(pid_t child) {
  int state = 0;
  return ::waitpid(child, &state, 0) == child && WIFEXITED(state) && WEXITSTATUS(state) == 0;
}

TEST(RingProcesses, exchange_random_messages_through_two_mappings) {
  const RingGeometry geometry{8, 65536};
  const std::string name = unique_segment_name();
  const std::size_t bytes = ring_segment_bytes(geometry).value();
  auto segment = Segment::create(name, bytes).value();
  ASSERT_TRUE(format_ring(*segment, geometry, kTestEpoch).ok());
  constexpr int kMessages = 2000;
  const pid_t child = in_child([&] {
    auto opened = Segment::open(name, bytes);
    if (!opened.ok()) return false;
    auto consumer = RingConsumer::create(**opened, geometry, kTestEpoch);
    if (!consumer.ok()) return false;
    MessageMaker maker(42, geometry);
    for (int i = 0; i < kMessages; ++i) {
      const auto [header, payloads] = maker.next();
      const auto message = consumer->receive(soon(), {});
      if (!message.ok() || !equals(*consumer, *message, header, payloads)) return false;
      release_all(*consumer, *message);
    }
    return true;
  });
  auto producer = RingProducer::create(*segment, geometry, kTestEpoch).value();
  MessageMaker maker(42, geometry);
  for (int i = 0; i < kMessages; ++i) {
    const auto [header, payloads] = maker.next();
    ASSERT_TRUE(send(producer, header, payloads).ok()) << i;
  }
  EXPECT_TRUE(ended_well(child));
}

TEST(RingProcesses, go_on_after_the_name_is_gone) {
  TestRing ring;
  const std::string name = ring.segment->name();
  auto other = Segment::open(name, ring.segment->bytes().size()).value();
  ring.segment->unlink();
  EXPECT_EQ(Segment::open(name, ring.segment->bytes().size()).status().code(),
            StatusCode::kUnavailable);
  auto consumer = RingConsumer::create(*other, ring.geometry, kTestEpoch).value();
  ASSERT_TRUE(send(*ring.producer, "still", {"here"}).ok());
  EXPECT_TRUE(equals(consumer, consumer.receive(soon(), {}).value(), "still", {"here"}));
}

/// Kills the child once the wait of this side looks around, and reports its death.
WaitCheck kill_and_report(pid_t child) {
  return [child, killed = false]() mutable -> Status {
    if (!killed) ::kill(child, SIGKILL);
    killed = true;
    if (::waitpid(child, nullptr, WNOHANG) == 0) return {};
    return {StatusCode::kUnavailable, "the peer died"};
  };
}

TEST(RingProcesses, killed_producer_is_noticed_by_the_parked_consumer) {
  TestRing ring;
  const pid_t child = in_child([&] {
    for (int i = 0; i < 8; ++i) (void)send(*ring.producer, "", {""});
    return send(*ring.producer, "", {""}).ok();  // parks: nobody reads
  });
  TestRing silent;
  EXPECT_EQ(silent.consumer->receive(soon(), kill_and_report(child)).status().code(),
            StatusCode::kUnavailable);
}

TEST(RingProcesses, killed_consumer_is_noticed_by_the_parked_producer) {
  TestRing ring;
  TestRing silent;
  const pid_t child = in_child([&] { return silent.consumer->receive(soon(), {}).ok(); });  // parks
  for (int i = 0; i < 8; ++i) ASSERT_TRUE(send(*ring.producer, "", {""}).ok());
  EXPECT_EQ(ring.producer->claim(1, soon(), kill_and_report(child)).status().code(),
            StatusCode::kUnavailable);
}

TEST(RingProcesses, message_published_before_a_kill_is_still_whole) {
  TestRing ring;
  const pid_t child = in_child([&] {
    const bool sent = send(*ring.producer, "last", {"words", "of mine"}).ok();
    ::raise(SIGKILL);
    return sent;
  });
  int state = 0;
  ASSERT_EQ(::waitpid(child, &state, 0), child);
  EXPECT_TRUE(WIFSIGNALED(state));
  EXPECT_TRUE(equals(*ring.consumer, ring.consumer->receive(Deadline::now(), {}).value(), "last",
                     {"words", "of mine"}));
}

}  // namespace
}  // namespace airlock
