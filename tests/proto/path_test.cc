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

constexpr PathPolicy kInline{true, 10485760, 8, false, 1000, 4096};

TEST(MessagePlan, small_tensors_ride_behind_the_header_and_share_its_slot) {
  const MessagePlan plan = plan_of(kInline, {999, 1000, 0, 20000000, 1});
  const MessagePlan::Tensor first{999, Path::kRing, {}, true, 0};
  const MessagePlan::Tensor third{0, Path::kRing, {}, true, 1024};
  const MessagePlan::Tensor last{1, Path::kRing, {}, true, 1024};
  EXPECT_THAT(plan.tensors(), ElementsAre(first, MessagePlan::Tensor{1000, Path::kRing}, third,
                                          MessagePlan::Tensor{20000000, Path::kZmq}, last));
  EXPECT_EQ(plan.ring_slots, 2u);
  EXPECT_EQ(plan.inline_bytes, 1025u);
}

TEST(MessagePlan, what_finds_no_room_behind_the_header_takes_a_slot_of_its_own) {
  const MessagePlan plan = plan_of(kInline, {999, 999, 999, 999, 999});
  EXPECT_TRUE(plan.planned[3].is_inline);
  EXPECT_EQ(plan.planned[3].inline_at, 3072u);
  EXPECT_FALSE(plan.planned[4].is_inline);
  EXPECT_EQ(plan.planned[4].path, Path::kRing);
  EXPECT_EQ(plan.ring_slots, 2u);
}

TEST(MessagePlan, what_may_not_take_the_ring_does_not_ride_behind_its_headers_either) {
  const MessagePlan plan = plan_of({true, 500, 8, false, 1000, 4096}, {499, 500});
  EXPECT_TRUE(plan.planned[0].is_inline);
  EXPECT_EQ(plan.planned[1], (MessagePlan::Tensor{500, Path::kZmq}));
}

TEST(MessagePlan, without_a_ring_small_tensors_ride_in_the_headers_frame) {
  const MessagePlan plan = plan_of({false, 0, 0, false, 1000, 4096}, {10, 1000});
  EXPECT_THAT(plan.tensors(), ElementsAre(MessagePlan::Tensor{10, Path::kZmq, {}, true, 0},
                                          MessagePlan::Tensor{1000, Path::kZmq}));
  EXPECT_EQ(plan.inline_bytes, 10u);
  EXPECT_EQ(plan.ring_slots, 0u);
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

constexpr PathPolicy kWithPool{true, 10485760, 8, true};

TEST(MessagePlan, what_the_ring_does_not_take_goes_by_the_pool) {
  EXPECT_THAT(paths_of(kWithPool, {10485759, 10485760}), ElementsAre(Path::kRing, Path::kPool));
  // Of a page at least.
  EXPECT_THAT(
      paths_of(kWithPool, {4096, 4096, 4096, 4096, 4096, 4095}),
      ElementsAre(Path::kRing, Path::kRing, Path::kRing, Path::kRing, Path::kPool, Path::kZmq));
  EXPECT_EQ(plan_of(kWithPool, {10485760, 1}).slowest(), Path::kPool);
  EXPECT_EQ(plan_of(kWithPool, {10485760}).header_path, Path::kRing);
}

TEST(MessagePlan, one_without_a_place_falls_back) {
  const std::vector<PoolPlace> places = {PoolPlace(), PoolPlace::at(8192), PoolPlace()};
  MessagePlan plan = plan_of(kWithPool, {1, 10485760, 20000000});
  ASSERT_TRUE(place_in_pool(plan, places).ok());
  EXPECT_THAT(plan.tensors(), ElementsAre(MessagePlan::Tensor{1, Path::kRing},
                                          MessagePlan::Tensor{10485760, Path::kPool, places[1]},
                                          MessagePlan::Tensor{20000000, Path::kZmq}));
  EXPECT_EQ(plan.fallbacks, 1u);
  plan = plan_of(kWithPool, {1, 10485760, 20000000});
  ASSERT_TRUE(place_in_pool(plan, {}).ok());
  EXPECT_EQ(plan.fallbacks, 2u);
  EXPECT_FALSE(plan.uses(Path::kPool));
  EXPECT_EQ(plan_in_pool(kWithPool, std::vector<std::size_t>{1, 10485760, 20000000}, {}).value(),
            plan);
  EXPECT_EQ(plan_in_pool(kPolicy, std::vector<std::size_t>{10485760}, {})->fallbacks, 0u);
}

TEST(MessagePlan, two_meet_where_their_places_do) {
  const auto plan_at = [](const std::vector<PoolPlace>& places) {
    return plan_in_pool(kWithPool, std::vector<std::size_t>(places.size(), 20000000), places)
        .value();
  };
  const std::uint64_t end = whole_pages(20000000);
  const MessagePlan one = plan_at({PoolPlace::at(0), PoolPlace::at(3 * end)});
  EXPECT_TRUE(meet_in_pool(one, one));
  EXPECT_TRUE(meet_in_pool(one, plan_at({PoolPlace(), PoolPlace::at(end - 4096)})));
  EXPECT_TRUE(meet_in_pool(plan_at({PoolPlace::at(2 * end + 4096)}), one));
  EXPECT_FALSE(meet_in_pool(one, plan_at({PoolPlace::at(end), PoolPlace::at(2 * end)})));
  EXPECT_FALSE(meet_in_pool(one, plan_at({PoolPlace(), PoolPlace()})));
  EXPECT_FALSE(meet_in_pool(one, MessagePlan()));
}

TEST(MessagePlan, places_are_those_of_the_pools_tensors) {
  const auto code_of = [](const std::vector<PoolPlace>& places) {
    MessagePlan plan = plan_of(kWithPool, {1, 10485760});
    return place_in_pool(plan, places).code();
  };
  EXPECT_EQ(code_of({PoolPlace::at(0), PoolPlace()}), StatusCode::kProtocolError);
  EXPECT_EQ(code_of({PoolPlace()}), StatusCode::kProtocolError);
  EXPECT_EQ(code_of({PoolPlace(), PoolPlace(), PoolPlace()}), StatusCode::kProtocolError);
  MessagePlan plan = plan_of(kPolicy, {10485760});  // ZeroMQ's
  EXPECT_EQ(place_in_pool(plan, std::vector<PoolPlace>{PoolPlace::at(0)}).code(),
            StatusCode::kProtocolError);
}

TEST(PoolPlace, is_a_page_or_nowhere) {
  EXPECT_TRUE(PoolPlace().is_nowhere());
  EXPECT_FALSE(PoolPlace::at(0).is_nowhere());
  EXPECT_EQ(PoolPlace::at(0).offset(), 0u);
  const std::uint64_t last = limits::kMaxPoolBytes - limits::kPoolPageBytes;
  EXPECT_EQ(PoolPlace::at(last).offset(), last);
}

TEST(PoolExtents, lie_apart_in_whole_pages) {
  const auto ok = [](const std::vector<PoolExtent>& extents) {
    return check_extents(extents).ok();
  };
  const PoolUse in = PoolUse::kInput;
  EXPECT_TRUE(ok({}));
  EXPECT_TRUE(ok({{in, 0, 8192}, {PoolUse::kOutput, 8192, 4096}}));
  EXPECT_FALSE(ok({{in, 0, 8192}, {PoolUse::kOutput, 4096, 8192}}));
  EXPECT_FALSE(ok({{in, 4096, 4096}, {PoolUse::kOutput, 0, 12288}}));
  EXPECT_FALSE(ok({{in, 0, 0}}));
  EXPECT_FALSE(ok({{in, 1, 4096}}));
  EXPECT_FALSE(ok({{in, 0, 4095}}));
  EXPECT_FALSE(ok({{in, limits::kMaxPoolBytes, 4096}}));
  EXPECT_FALSE(ok({{in, UINT64_MAX - 4095, 8192}}));
  EXPECT_TRUE(ok({{in, limits::kMaxPoolBytes - 4096, 4096}}));
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
