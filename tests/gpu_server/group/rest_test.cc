#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "base/deadline.h"
#include "gpu_server/group/port.h"
#include "tests/gpu_server/group/group_rig.h"
#include "tests/support/reference_ops.h"

namespace airlock::testing {
namespace {

constexpr int kRests = 50;
/// What was waited so far, so that a rest is as long as it may be.
constexpr std::chrono::milliseconds kWaited{300};

std::chrono::nanoseconds time_of(GroupRest& rest, Pace pace, bool rings) {
  const std::uint64_t start = now_ns();
  for (int i = 0; i < kRests; ++i) {
    if (rings) rest.ring();
    rest.rest(pace);
  }
  return std::chrono::nanoseconds(now_ns() - start);
}

// Of times nothing is told but that one is longer than another, by far.
TEST(GroupRest, is_longer_where_less_is_waited_for_and_a_ring_ends_it) {
  GroupRest rest;
  std::this_thread::sleep_for(kWaited);
  const auto idle = time_of(rest, Pace::kIdle, false);
  const auto awaited = time_of(rest, Pace::kAwaited, false);
  EXPECT_GT(idle, kRests * std::chrono::milliseconds(4));
  EXPECT_GT(awaited, kRests * std::chrono::microseconds(200));
  EXPECT_LT(awaited, idle);
  EXPECT_LT(time_of(rest, Pace::kIdle, true), idle);
}

TEST(GroupRest, is_ended_by_a_ring_from_another_thread) {
  GroupRest rest;
  std::this_thread::sleep_for(kWaited);
  std::thread other([&] {
    for (int i = 0; i < kRests; ++i) {
      rest.ring();
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  });
  // As after any event: rests are short, and grow again.
  const std::uint64_t start = now_ns();
  int rests = 0;
  while (std::chrono::nanoseconds(now_ns() - start) < kRests * std::chrono::milliseconds(1)) {
    rest.rest(Pace::kIdle);
    ++rests;
  }
  other.join();
  EXPECT_GT(rests, 20) << "without a ring it would be 12";
}

TEST(RemoteOp, says_when_its_inputs_have_gone_or_never_will) {
  const MemoryModel source;
  // A rank that is cut off ends soon.
  GroupRig rig(source, DType::kF32,
               {.ranks = 2,
                .door_only = true,
                .timing = {.sign = std::chrono::milliseconds(50),
                           .silence = std::chrono::milliseconds(1000)}});
  const auto make = [&](Tensor& input, Tensor& result) {
    auto op = std::make_shared<RemoteOp>();
    op->rank = 1;
    op->spec = lm_head_spec(input.desc());
    op->deadline = GroupRig::soon();
    op->inputs = {ByteRows::dense(input.mutable_view().data, input.desc().bytes())};
    op->result_descs = {result.desc()};
    op->results = {tensor_rows(result.mutable_view().data, result.desc())};
    return op;
  };
  Tensor input = random_tensor({DType::kF32, Shape{2, source.config().dims.hidden}}, 1);
  Tensor result({DType::kF32, Shape{2, source.config().dims.vocab}});
  const auto op = make(input, result);
  EXPECT_FALSE(op->wait_sent(Deadline::now()));
  rig.leader().submit(op);
  EXPECT_TRUE(op->wait_sent(GroupRig::soon()));
  ASSERT_TRUE(op->wait(GroupRig::soon()));
  EXPECT_TRUE(op->status().ok()) << op->status().message();

  rig.hub().cut(1);
  const auto never = make(input, result);
  rig.leader().submit(never);
  EXPECT_FALSE(never->wait_sent(Deadline::after(std::chrono::milliseconds(20))));
  rig.leader().lose({StatusCode::kDevice, "cut"});
  EXPECT_TRUE(never->wait_sent(GroupRig::soon()));
  EXPECT_TRUE(never->is_over());
}

}  // namespace
}  // namespace airlock::testing
