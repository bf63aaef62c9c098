// How a session finds its path limit by trying, over real channels.

#include "runtime/rpc/calibration.h"

#include <gmock/gmock.h>

#include <atomic>
#include <cstring>
#include <optional>
#include <thread>
#include <vector>

#include "proto/calibration.h"
#include "runtime/rpc/peer_life.h"
#include "tests/rpc/rpc_rigs.h"

namespace airlock {
namespace {

using ::testing::HasSubstr;
using testing_rigs::make_pool_rig;
using testing_rigs::make_ring_rig;
using testing_rigs::Rig;
using testing_rigs::soon;

constexpr std::size_t kMost = testing_rigs::kGeometry.slot_bytes;

TEST(ChosenPathLimit, is_the_most_unless_the_rival_was_clearly_faster_up_to_the_end) {
  EXPECT_EQ(choose_path_limit({}, 1000), 1000u);
  EXPECT_EQ(choose_path_limit(std::vector<TriedSize>{{100, Path::kPool, 50, 48}}, 1000), 1000u);
  EXPECT_EQ(
      choose_path_limit(
          std::vector<TriedSize>{{100, Path::kPool, 50, 10}, {200, Path::kPool, 50, 60}}, 1000),
      1000u);
}

TEST(ChosenPathLimit, is_the_smallest_size_from_which_on_the_rival_is_faster) {
  const std::vector<TriedSize> tried = {
      {100, Path::kPool, 10, 20}, {200, Path::kPool, 50, 40}, {400, Path::kPool, 100, 60}};
  EXPECT_EQ(choose_path_limit(tried, 1000), 200u);
}

TEST(Calibration, says_what_each_size_took) {
  const Calibration found{4096, {{4096, Path::kPool, 2000, 1000}}};
  EXPECT_EQ(found.text(),
            "path limit 4096 bytes, found by trying: 4 KiB by ring 2.0 us, pool 1.0 us");
}

/// Both ends in two threads, and what each found.
void calibrate(Rig rig, PoolLease* lease, Path rival) {
  Result<std::uint32_t> followed{0};
  const PeerLife watch;
  std::thread server([&] { followed = follow_calibration(*rig.server, watch); });
  const auto led = lead_calibration(*rig.runner, lease, soon());
  server.join();
  ASSERT_TRUE(led.ok()) << led.status().to_string();
  ASSERT_TRUE(followed.ok()) << followed.status().to_string();
  EXPECT_EQ(led->path_limit, *followed);
  // 4 and 16 KiB are less than a slot. On a busy machine there may be no time for the second, and
  // then nothing is chosen.
  ASSERT_GE(led->tried.size(), 1u);
  ASSERT_LE(led->tried.size(), 2u);
  if (led->tried.size() < 2) {
    EXPECT_EQ(led->path_limit, kMost);
  }
  for (const TriedSize& tried : led->tried) {
    EXPECT_EQ(tried.rival, rival);
    EXPECT_GT(tried.ring_ns, 0u);
    EXPECT_GT(tried.rival_ns, 0u);
  }
  // The session goes on from there.
  auto message = rig.runner->prepare(std::vector<std::size_t>{}, soon());
  ASSERT_TRUE(message.ok());
  EXPECT_TRUE(rig.runner->send(**message, testing_rigs::header_of(0, {}), soon()).ok());
  EXPECT_TRUE(rig.server->receive(testing_rigs::sizes_in, soon()).ok());
}

TEST(Calibration, both_ends_find_the_same_limit_with_a_pool) {
  Rig rig = make_pool_rig();
  PoolLease* const lease = rig.pool->lease.get();
  calibrate(std::move(rig), lease, Path::kPool);
}
TEST(Calibration, both_ends_find_the_same_limit_without_one) {
  calibrate(make_ring_rig(), nullptr, Path::kZmq);
}

/// What a server says to a runner that sends this header first, with a tensor where `plan` has one.
Status follow(const std::vector<std::byte>& header, const MessagePlan& plan) {
  Rig rig = make_pool_rig();
  const PeerLife watch;
  auto message = rig.runner->claim(plan, soon());
  EXPECT_TRUE(message.ok()) << message.status().to_string();
  EXPECT_TRUE(rig.runner->send(**message, header, soon()).ok());
  return follow_calibration(*rig.server, watch).status();
}

MessagePlan no_tensors() { return plan_message({true, kMost, 8}, {}).value(); }

TEST(HostileRunner, finds_no_limit_that_the_rings_have_not) {
  Trial end;
  end.path_limit = kMost + 1;
  EXPECT_EQ(follow(encode(end), no_tensors()).code(), StatusCode::kProtocolError);
  EXPECT_EQ(follow(encode(Trial{}), no_tensors()).code(), StatusCode::kProtocolError);
}

TEST(HostileRunner, tries_no_size_that_the_rings_have_not) {
  for (const bool by_ring : {true, false}) {
    Trial large;
    large.bytes = kMost;
    large.by_ring = by_ring;
    EXPECT_EQ(follow(encode(large), no_tensors()).code(), StatusCode::kProtocolError);
  }
}

TEST(HostileRunner, tries_no_memory_that_it_has_not_leased) {
  Trial foreign;
  foreign.bytes = 8192;
  foreign.place = PoolPlace::at(0);
  foreign.reply_place = PoolPlace::at(std::uint64_t{1} << 39);
  const Rig rig = make_pool_rig();
  const MessagePlan plan = plan_trial(rig.runner->policy(), foreign).value();
  const Status status = follow(encode(foreign), plan);
  EXPECT_EQ(status.code(), StatusCode::kProtocolError);
  EXPECT_THAT(status.message(), HasSubstr("not leased"));
}

TEST(HostileRunner, tries_with_both_places_or_none) {
  Trial half;
  half.bytes = 8192;
  half.place = PoolPlace::at(0);
  EXPECT_EQ(follow(encode(half), no_tensors()).code(), StatusCode::kProtocolError);
}

/// A runner whose trials never end, to the end of the session or of the server's patience.
Status follow_for_ever(PeerLife& watch, int ends_after) {
  Rig rig = make_pool_rig();
  std::atomic<bool> over{false};
  std::thread runner([&] {
    Trial trial;
    trial.bytes = 4096;
    trial.by_ring = true;
    const MessagePlan plan = plan_trial(rig.runner->policy(), trial).value();
    for (int sent = 0; !over; ++sent) {
      if (sent == ends_after) watch.end({StatusCode::kUnavailable, "it left"});
      auto message = rig.runner->claim(plan, soon());
      if (!message.ok() || !rig.runner->send(**message, encode(trial), soon()).ok()) return;
      const AcceptPlan accept = [&](std::span<const std::byte>) -> Result<MessagePlan> {
        return plan;
      };
      while (!over && !rig.runner->receive(accept, Deadline::now()).ok()) {
      }
    }
  });
  const Status status = follow_calibration(*rig.server, watch).status();
  over = true;
  runner.join();
  return status;
}

TEST(HostileRunner, tries_no_more_often_than_an_honest_one) {
  PeerLife watch;
  EXPECT_EQ(follow_for_ever(watch, -1).code(), StatusCode::kProtocolError);
}
TEST(HostileRunner, that_never_pauses_does_not_outlive_its_session) {
  PeerLife watch;
  EXPECT_EQ(follow_for_ever(watch, 10).code(), StatusCode::kUnavailable);
}

TEST(HostileRunner, ends_with_what_is_no_trial) {
  EXPECT_EQ(follow(std::vector<std::byte>(20, std::byte{0xff}), no_tensors()).code(),
            StatusCode::kProtocolError);
}

TEST(HostileServer, that_does_nothing_is_given_up) {
  Rig rig = make_ring_rig();
  EXPECT_EQ(lead_calibration(*rig.runner, nullptr, Deadline::after(std::chrono::milliseconds(20)))
                .status()
                .code(),
            StatusCode::kDeadlineExceeded);
}

TEST(HostileServer, answers_no_other_trial) {
  Rig rig = make_ring_rig();
  std::thread server([&] {
    auto received = rig.server->receive(
        [&](std::span<const std::byte> header) {
          return plan_trial(rig.server->policy(), decode_trial(header, kMost).value());
        },
        soon());
    ASSERT_TRUE(received.ok());
    Trial other = decode_trial((*received)->header(), kMost).value();
    other.by_ring = false;
    auto reply = rig.server->claim(plan_trial_reply(rig.server->policy(), other).value(), soon());
    ASSERT_TRUE(reply.ok());
    EXPECT_TRUE(rig.server->send(**reply, encode(other), soon()).ok());
  });
  EXPECT_EQ(lead_calibration(*rig.runner, nullptr, soon()).status().code(),
            StatusCode::kProtocolError);
  server.join();
}

}  // namespace
}  // namespace airlock
