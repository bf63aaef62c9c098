#include "proto/path.h"

#include <gmock/gmock.h>

#include <vector>

namespace airlock {
namespace {

using testing::ElementsAre;

constexpr PathPolicy kPolicy{true, 10485760, 8};
constexpr PathPolicy kNoRing{false, 10485760, 0};

MessagePlan plan_of(const PathPolicy& policy, const std::vector<std::size_t>& sizes) {
  return plan_message(policy, sizes).value();
}

std::vector<Path> paths_of(const PathPolicy& policy, const std::vector<std::size_t>& sizes) {
  std::vector<Path> paths;
  const MessagePlan plan = plan_of(policy, sizes);
  for (const MessagePlan::Tensor& tensor : plan.tensors()) paths.push_back(tensor.path);
  return paths;
}

TEST(MessagePlan, keeps_the_sizes_in_order) {
  const MessagePlan plan = plan_of(kPolicy, {7, 0, 20000000});
  ASSERT_EQ(plan.tensor_count, 3u);
  EXPECT_THAT(plan.tensors(),
              ElementsAre(MessagePlan::Tensor{7, Path::kRing}, MessagePlan::Tensor{0, Path::kRing},
                          MessagePlan::Tensor{20000000, Path::kZmq}));
}

TEST(MessagePlan, strictly_under_the_limit_takes_the_ring) {
  EXPECT_THAT(paths_of(kPolicy, {10485759}), ElementsAre(Path::kRing));
  EXPECT_THAT(paths_of(kPolicy, {10485760}), ElementsAre(Path::kZmq));
  EXPECT_THAT(paths_of(kPolicy, {10485761}), ElementsAre(Path::kZmq));
  EXPECT_THAT(paths_of(kPolicy, {0}), ElementsAre(Path::kRing));
}

TEST(MessagePlan, tensors_beyond_half_the_slots_go_by_zmq) {
  EXPECT_THAT(
      paths_of(kPolicy, {1, 1, 1, 1, 1, 1}),
      ElementsAre(Path::kRing, Path::kRing, Path::kRing, Path::kRing, Path::kZmq, Path::kZmq));
  EXPECT_EQ(plan_of(kPolicy, {1, 1, 1, 1, 1, 1}).ring_slots, 4u);
}

TEST(MessagePlan, large_tensors_take_no_slot_from_small_ones) {
  EXPECT_THAT(
      paths_of(kPolicy, {10485760, 1, 20000000, 1, 1, 1}),
      ElementsAre(Path::kZmq, Path::kRing, Path::kZmq, Path::kRing, Path::kRing, Path::kRing));
}

TEST(MessagePlan, without_a_ring_everything_goes_by_zmq) {
  const MessagePlan plan = plan_of(kNoRing, {0, 1, 10485760});
  EXPECT_THAT(paths_of(kNoRing, {0, 1, 10485760}), ElementsAre(Path::kZmq, Path::kZmq, Path::kZmq));
  EXPECT_EQ(plan.header_path, Path::kZmq);
  EXPECT_EQ(plan.ring_slots, 0u);
  EXPECT_FALSE(plan.uses(Path::kRing));
}

TEST(MessagePlan, header_takes_one_slot_even_without_ring_tensors) {
  EXPECT_EQ(plan_of(kPolicy, {}).header_path, Path::kRing);
  EXPECT_EQ(plan_of(kPolicy, {}).ring_slots, 1u);
  EXPECT_EQ(plan_of(kPolicy, {10485760}).ring_slots, 1u);
  EXPECT_EQ(plan_of(kPolicy, {1, 1}).ring_slots, 2u);
}

TEST(MessagePlan, knows_the_paths_that_it_uses) {
  EXPECT_TRUE(plan_of(kPolicy, {10485760}).uses(Path::kRing));  // its header
  EXPECT_TRUE(plan_of(kPolicy, {1, 10485760}).uses(Path::kZmq));
  EXPECT_FALSE(plan_of(kPolicy, {1, 1}).uses(Path::kZmq));
  EXPECT_EQ(plan_of(kPolicy, {1, 1}).slowest(), Path::kRing);
  EXPECT_EQ(plan_of(kPolicy, {10485760, 1}).slowest(), Path::kZmq);
  EXPECT_EQ(plan_of(kNoRing, {}).slowest(), Path::kZmq);
}

TEST(MessagePlan, is_refused_beyond_the_limits) {
  const auto code_of = [](const std::vector<std::size_t>& sizes) {
    return plan_message(kPolicy, sizes).status().code();
  };
  EXPECT_EQ(code_of(std::vector<std::size_t>(9, 1)), StatusCode::kInvalidInput);
  EXPECT_EQ(code_of({limits::kMaxTensorBytes + 1}), StatusCode::kInvalidInput);
  EXPECT_EQ(code_of({~std::size_t{0}}), StatusCode::kInvalidInput);
  EXPECT_EQ(code_of({1, ~std::size_t{0}}), StatusCode::kInvalidInput);
  EXPECT_EQ(code_of(std::vector<std::size_t>(3, limits::kMaxTensorBytes)),
            StatusCode::kInvalidInput);
  EXPECT_EQ(code_of(std::vector<std::size_t>(2, limits::kMaxTensorBytes)), StatusCode::kOk);
}

}  // namespace
}  // namespace airlock
