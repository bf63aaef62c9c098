#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
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
constexpr std::chrono::milliseconds kLongest{4};

/// Of many, as a busy machine makes some of them longer.
std::chrono::nanoseconds shortest(GroupRest& rest, Pace pace, bool rings = false) {
  std::uint64_t least = ~std::uint64_t{0};
  for (int i = 0; i < kRests; ++i) {
    if (rings) rest.ring();
    const std::uint64_t start = now_ns();
    rest.rest(pace);
    least = std::min(least, now_ns() - start);
  }
  return std::chrono::nanoseconds(least);
}

TEST(GroupRest, is_shorter_where_an_answer_is_awaited_and_a_ring_ends_it) {
  GroupRest rest;
  std::this_thread::sleep_for(kWaited);
  EXPECT_GE(shortest(rest, Pace::kIdle), kLongest);
  const auto awaited = shortest(rest, Pace::kAwaited);
  EXPECT_GE(awaited, std::chrono::microseconds(200));
  EXPECT_LT(awaited, kLongest);
  EXPECT_LT(shortest(rest, Pace::kIdle, true), kLongest);
}

TEST(GroupRest, is_ended_by_a_ring_from_another_thread) {
  GroupRest rest;
  std::this_thread::sleep_for(kWaited);
  std::atomic<bool> stops{false};
  std::thread other([&] {
    while (!stops) {
      rest.ring();
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  });
  EXPECT_LT(shortest(rest, Pace::kIdle), kLongest);
  stops = true;
  other.join();
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
